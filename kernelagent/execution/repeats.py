"""Answers by Idempotency-Key: a repeated request joins its run or gets its answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kernelagent.concurrency import Disconnected
from kernelagent.errors import ApiError, IdempotencyConflict, InvalidRequest
from kernelagent.execution.flight import Flights
from kernelagent.execution.models import ExecuteRequest
from kernelagent.execution.runs import Answer, Runs
from kernelagent.settings import Settings

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

# What a record takes beside the bytes of its answer.
RECORD_OVERHEAD = 1024
_MOST_RECORDS = 10_000
# Up to here a hash does not take long enough to be worth a thread.
_SMALL = 256 * 1024

_is_key = re.compile(r"[\x20-\x7e]{1,255}").fullmatch

# Makes the body of an answer; None if it was stopped because all callers had left.
Work = Callable[[Disconnected], Awaitable[bytes | None]]


@dataclass(slots=True)
class _Record:
    """An ended run: its request, its answer or what became of it, and until when that is known."""

    digest: bytes
    expires_at: float
    answer: bytes | None
    fate: str = ""

    @property
    def size(self) -> int:
        return RECORD_OVERHEAD + len(self.answer or b"")


class Repeats:
    """Runs by key, each at most once; an async context manager, to be left after the engine's.

    Answers are kept within a number of bytes, and what was run within a number of records.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        most_records: int = _MOST_RECORDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = settings.idempotency_ttl
        self._limit = settings.idempotency_bytes
        self._most = most_records
        self._clock = clock
        self._flights: Flights[bytes | None] = Flights()
        # The digests of the requests that run now, and what is known of ended ones, oldest first.
        self._running: dict[bytes, bytes] = {}
        self._ended: OrderedDict[bytes, _Record] = OrderedDict()
        self._with_answer: OrderedDict[bytes, None] = OrderedDict()
        self.bytes = 0

    async def __aenter__(self) -> Repeats:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._flights.close()

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    async def answer(
        self,
        key: str,
        owner: tuple[str, str],
        request: bytes,
        work: Work,
        disconnected: Disconnected,
        *,
        hold: bool,
    ) -> tuple[bytes | None, bool]:
        """The body of the answer and whether it is that of an earlier request; None to who left.

        `owner` is the token's subject and the path; with `hold` the run goes on when all have
        left. Raises InvalidRequest, IdempotencyConflict and whatever `work` raises.
        """
        if not _is_key(key):
            raise InvalidRequest(f"{HEADER} has 1 to 255 printable ASCII characters")
        name = hashlib.sha256(json.dumps([*owner, key]).encode()).digest()
        digest = await _digest(request)
        self._expire()
        record = self._ended.get(name)
        flight = self._flights.find(name)
        if digest != (record.digest if record is not None else self._running.get(name, digest)):
            raise IdempotencyConflict(f"this {HEADER} was used for another request")
        if record is not None:
            if record.answer is None:
                raise IdempotencyConflict(f"this request was run already, and {record.fate}")
            return record.answer, True
        repeated = flight is not None
        if flight is None:
            if name in self._running:
                raise IdempotencyConflict("this request was run already, and is being stopped")
            flight = self._flights.start(name, lambda left: self._run(name, digest, work, left))
            self._running[name] = digest
        return await flight.join(disconnected, hold=hold), repeated

    async def _run(
        self, name: bytes, digest: bytes, work: Work, abandoned: Disconnected
    ) -> bytes | None:
        answer, fate = None, "failed inside the service"
        ran = True
        try:
            answer = await work(abandoned)
            fate = "its answer is not kept any more"
            if answer is None:
                fate = "it was stopped because its callers had left"
        except ApiError:
            ran = False
            raise
        finally:
            del self._running[name]
            if ran:
                self._keep(name, _Record(digest, self._clock() + self._ttl, answer, fate))
        return answer

    def _keep(self, name: bytes, record: _Record) -> None:
        if record.size > self._limit:
            record.answer = None
        self._ended[name] = record
        if record.answer is not None:
            self._with_answer[name] = None
            self.bytes += record.size
        while self.bytes > self._limit:
            self._lose_answer(next(iter(self._with_answer)))
        while len(self._ended) > self._most:
            self._forget(next(iter(self._ended)))

    def _expire(self) -> None:
        now = self._clock()
        while self._ended:
            name, record = next(iter(self._ended.items()))
            if record.expires_at > now:
                return
            self._forget(name)

    def _forget(self, name: bytes) -> None:
        self._lose_answer(name)
        del self._ended[name]

    def _lose_answer(self, name: bytes) -> None:
        record = self._ended[name]
        if record.answer is not None:
            del self._with_answer[name]
            self.bytes -= record.size
            record.answer = None


class RepeatedRuns:
    """Runs under one key of one owner: `request` is what came under it, byte for byte."""

    def __init__(
        self, repeats: Repeats, runs: Runs, key: str, owner: tuple[str, str], request: bytes
    ) -> None:
        self._repeats = repeats
        self._runs = runs
        self._key = key
        self._owner = owner
        self._request = request

    async def answer(
        self, request: ExecuteRequest, disconnected: Disconnected, *, rich: bool
    ) -> Answer | None:
        """See `Runs.answer`; once for all requests of the key. Raises IdempotencyConflict."""
        # Not self: it has the request's bytes, and callers may leave long before the run ends.
        runs = self._runs

        async def work(abandoned: Disconnected) -> bytes | None:
            answer = await runs.answer(request, abandoned, rich=rich)
            return None if answer is None else answer.body

        # Whoever sends a key means to come back.
        hold = request.on_disconnect != "interrupt"
        body, repeated = await self._repeats.answer(
            self._key, self._owner, self._request, work, disconnected, hold=hold
        )
        return None if body is None else Answer(body, repeated)


async def _digest(request: bytes) -> bytes:
    if len(request) < _SMALL:
        return hashlib.sha256(request).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(request).digest())
