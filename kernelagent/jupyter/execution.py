"""One run as its caller sees it: a request, a place in the queue, events, a result."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kernelagent.jupyter.outputs import Budget, Clear, Event, Output, Text, Truncation, Update
from kernelagent.jupyter.run import Outcome, Run


@dataclass(slots=True)
class RunRequest:
    """What is to be run, and within which limits (seconds)."""

    code: str
    timeout: float
    queue_timeout: float
    request_timeout: float
    budget: Budget
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    allow_stdin: bool = False


@dataclass(slots=True)
class Begun:
    """The kernel has taken the code."""

    execution_count: int | None


@dataclass(slots=True)
class Prompt:
    """The code asks its user for a line."""

    prompt: str
    password: bool


@dataclass(slots=True)
class Skipped:
    """The reader was too slow: this many bytes of events were left out; the result has them."""

    bytes: int


StreamEvent = Event | Begun | Prompt | Skipped


@dataclass(slots=True)
class Result:
    """What a run came to."""

    execution_id: str
    session_id: str
    language: str
    outcome: Outcome
    exit_code: int
    execution_count: int | None
    message: str
    state_lost: bool
    outputs: list[Output]
    updates: list[Update]
    late_outputs: list[Output]
    error: Output | None
    truncation: Truncation
    queued_seconds: float
    seconds: float
    finished_at: datetime
    notes: list[str]

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.OK and self.exit_code == 0


class Feed:
    """The events of one run on their way to one reader.

    Text that waits is joined, updates of one display replace each other, and what waits is bounded:
    beyond `limit` bytes events are left out and their size is told.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[StreamEvent] = deque()
        self._waiting = 0
        self._skipped = 0
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, event: StreamEvent) -> None:
        """Add an event; never waits."""
        size = _event_size(event)
        if self._waiting + size > self._limit:
            self._skipped += size
            return
        self._waiting += size
        last = self._events[-1] if self._events else None
        if isinstance(event, Text) and isinstance(last, Text) and last.name == event.name:
            last.text += event.text
        elif (
            isinstance(event, Update)
            and isinstance(last, Update)
            and last.display_id == event.display_id
        ):
            self._waiting -= _event_size(last)
            self._events[-1] = event
        elif isinstance(event, Text):
            # A copy: what is joined to it must not change the collector's own pieces.
            self._events.append(Text(event.name, event.text))
        else:
            self._events.append(event)
        self._ready.set()

    def close(self) -> None:
        """No more events will come."""
        self._closed = True
        self._ready.set()

    async def next(self) -> list[StreamEvent]:
        """All events that wait, at least one; empty once the feed is closed and read."""
        await self._ready.wait()
        events = list(self._events)
        self._events.clear()
        self._waiting = 0
        if self._skipped:
            events.append(Skipped(self._skipped))
            self._skipped = 0
        if not self._closed:
            self._ready.clear()
        return events


class Execution:
    """A run from its request to its result; made by `Session.submit`."""

    def __init__(self, session_id: str, request: RunRequest, feed: Feed | None) -> None:
        self.id = f"exec_{uuid.uuid4().hex[:20]}"
        self.session_id = session_id
        self.request = request
        self.feed = feed
        self.submitted = time.monotonic()
        self.submitted_at = datetime.now(UTC)
        self.begun: float | None = None
        self.run: Run | None = None
        self.stop_requested: tuple[Outcome, str] | None = None
        self.finished: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        # The caller may be gone when an error ends the wait: asyncio would complain.
        self.finished.add_done_callback(_retrieve)

    def emit(self, event: StreamEvent) -> None:
        """Pass an event to the reader, if there is one."""
        if self.feed is not None:
            self.feed.put(event)

    def stop(self, outcome: Outcome, reason: str) -> None:
        """Stop the run, or keep it from starting; its result says `reason`."""
        if self.stop_requested is None:
            self.stop_requested = (outcome, reason)
        if self.run is not None:
            self.run.stop(outcome, reason)

    def finish(self, result: Result) -> None:
        """Hand the result to whoever waits."""
        if not self.finished.done():
            self.finished.set_result(result)
        if self.feed is not None:
            self.feed.close()

    def fail(self, error: Exception) -> None:
        """The code was not run, for `error`."""
        if not self.finished.done():
            self.finished.set_exception(error)
        if self.feed is not None:
            self.feed.close()


def _retrieve(future: asyncio.Future[Result]) -> None:
    if not future.cancelled():
        future.exception()


def _event_size(event: StreamEvent) -> int:
    match event:
        case Text():
            return len(event.text)
        case Clear() | Begun() | Prompt() | Skipped():
            return 64
        case Update():
            return 256 + sum(len(value) for value in event.data.values() if isinstance(value, str))
    data = event.output.get("data") or {}
    return 256 + sum(len(value) for value in data.values() if isinstance(value, str))
