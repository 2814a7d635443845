"""Results in memory: bounded in bytes, number and age; the least recently used go first."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from kernelagent.execution.rendering import answer
from kernelagent.sessions.execution import Result
from kernelagent.web.json import dump_json

# What an entry takes beside its bytes: objects, places in the tables.
ENTRY_OVERHEAD = 1024
# A result that would push out more than this share of all others is not kept.
_LARGEST_SHARE = 4
# Entries that have gone may have left so many reminders of their end.
_SPARE_REMINDERS = 64


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer as bytes: the fields of /execute, and those that /execute/rich adds."""

    common: bytes
    extra: bytes

    @classmethod
    def of(cls, result: Result) -> Rendered:
        """The answer to a run; takes milliseconds for each MiB."""
        fields = answer(result, with_outputs=True)
        extra = {name: fields.pop(name) for name in ("outputs", "display_updates")}
        # Both are objects that hold something: without their brackets they can be joined.
        return cls(dump_json(fields)[:-1], b"," + dump_json(extra)[1:-1])

    @property
    def size(self) -> int:
        return len(self.common) + len(self.extra)

    def body(self, *, rich: bool, cached: bool, age: float = 0.0) -> bytes:
        """The body of an answer, marked as `cached` and then with its age in seconds, or not."""
        mark = f',"cached":true,"age":{age:.6f}}}' if cached else ',"cached":false}'
        return b"".join((self.common, self.extra if rich else b"", mark.encode()))


@dataclass(slots=True)
class Statistics:
    """What has happened since the service started; runs that did not ask count nowhere."""

    # Answers that came from the store, and runs that had to be started.
    hits: int = 0
    misses: int = 0
    # Callers that joined a run which was going on.
    shared: int = 0
    stores: int = 0
    # Results that were not kept: failed, cut, too large, of files that changed, cleared meanwhile.
    refused: int = 0
    evictions: int = 0
    expired: int = 0

    @property
    def hit_rate(self) -> float:
        """The share of hits among hits and misses; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


@dataclass(slots=True)
class _Entry:
    rendered: Rendered
    size: int
    stored_at: float
    expires_at: float


class ResultStore:
    """Rendered results by key; `clock` counts seconds and never jumps."""

    def __init__(
        self, *, max_bytes: int, max_entries: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.bytes = 0
        self.statistics = Statistics()
        # Counts the clearings: what belongs to an earlier one is not stored any more.
        self.generation = 0
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._ends: list[tuple[float, bytes]] = []

    @property
    def enabled(self) -> bool:
        """Whether anything can be kept at all."""
        return self.max_bytes > 0 and self.max_entries > 0

    def __len__(self) -> int:
        self._expire()
        return len(self._entries)

    def get(self, key: bytes, max_age: float) -> tuple[Rendered, float] | None:
        """The result of `key` and its age, if it is not older than `max_age` seconds."""
        self._expire()
        entry = self._entries.get(key)
        age = 0.0 if entry is None else self._clock() - entry.stored_at
        if entry is None or age >= max_age:
            return None
        self._entries.move_to_end(key)
        return entry.rendered, age

    def put(self, key: bytes, rendered: Rendered, ttl: float, *, generation: int) -> bool:
        """Keep a result for `ttl` seconds; whether it was kept."""
        size = len(key) + rendered.size + ENTRY_OVERHEAD
        fits = self.enabled and size <= self.max_bytes // _LARGEST_SHARE
        if not fits or generation != self.generation:
            self.refuse()
            return False
        self._expire()
        self._drop(key)
        while self._entries and (
            self.bytes + size > self.max_bytes or len(self._entries) >= self.max_entries
        ):
            self._drop(next(iter(self._entries)))
            self.statistics.evictions += 1
        now = self._clock()
        self._entries[key] = _Entry(rendered, size, now, now + ttl)
        self.bytes += size
        self.statistics.stores += 1
        self._remind(now + ttl, key)
        return True

    def refuse(self) -> None:
        """Count a result that cannot be kept."""
        self.statistics.refused += 1

    def clear(self) -> tuple[int, int]:
        """Forget all results, those of runs that go on included; their number and bytes."""
        self._expire()
        removed = len(self._entries), self.bytes
        self._entries.clear()
        self._ends.clear()
        self.bytes = 0
        self.generation += 1
        return removed

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def _expire(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            entry = self._entries.get(key)
            # It may be a later result of the same key.
            if entry is not None and entry.expires_at <= now:
                self._drop(key)
                self.statistics.expired += 1

    def _remind(self, moment: float, key: bytes) -> None:
        if len(self._ends) > 2 * len(self._entries) + _SPARE_REMINDERS:
            self._ends = [(entry.expires_at, name) for name, entry in self._entries.items()]
            heapq.heapify(self._ends)
            return
        heapq.heappush(self._ends, (moment, key))
