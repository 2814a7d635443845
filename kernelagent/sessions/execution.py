"""One run as its caller sees it: a request, a place in the queue, events, a result."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import (
    Budget,
    Display,
    Event,
    Failure,
    Output,
    OutputCollector,
    Text,
    Truncation,
    Update,
    bundle_size,
)
from kernelagent.outcome import Outcome
from kernelagent.sessions.run import Run

# Room in a feed for what must reach its reader.
_RESERVE = 2**20
# What an event takes beside its data.
_FRAME = 64


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
    # The id that the run shall have, and who sees each message before the budget cuts it.
    execution_id: str | None = None
    listener: Callable[[Message], None] | None = None
    # Instead of what the settings allow for the files of one run's excess output.
    spill_bytes: int | None = None


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
    error: Output | None
    truncation: Truncation
    queued_seconds: float
    seconds: float
    finished_at: datetime
    late_outputs: list[Output] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.OK and self.exit_code == 0


class Feed:
    """The events of one run on their way to one reader.

    Text that waits is joined, updates of one display replace each other, and what waits is bounded:
    beyond `limit` bytes events are left out, and in their place stands how much that was. Questions
    and errors have some room of their own, for without them a reader could not go on.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[StreamEvent] = deque()
        # The text at the end, in pieces: joining them one by one would take quadratic time.
        self._text: Text | None = None
        self._pieces: list[str] = []
        self._waiting = 0
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, event: StreamEvent) -> None:
        """Add an event; never waits."""
        size = _event_size(event)
        last = self._events[-1] if self._events else None
        replaced = _event_size(last) if last is not None and _replaces(event, last) else 0
        limit = self._limit
        if isinstance(event, Begun | Prompt | Failure):
            limit += _RESERVE
        if self._waiting - replaced + size > limit:
            self._skip(size - _FRAME)
        elif isinstance(event, Text) and self._text is not None and self._text.name == event.name:
            self._waiting += len(event.text)
            self._pieces.append(event.text)
        elif replaced:
            self._waiting += size - replaced
            self._events[-1] = event
        else:
            self._waiting += size
            self._add(event)
        self._ready.set()

    def close(self) -> None:
        """No more events will come."""
        self._closed = True
        self._ready.set()

    async def next(self) -> list[StreamEvent]:
        """All events that wait, at least one; empty once the feed is closed and read."""
        await self._ready.wait()
        self._join()
        events = list(self._events)
        self._events.clear()
        self._waiting = 0
        if not self._closed:
            self._ready.clear()
        return events

    def _add(self, event: StreamEvent) -> None:
        self._join()
        if isinstance(event, Text):
            # A copy: what is joined to it must not change the collector's own pieces.
            self._text = Text(event.name, "")
            self._pieces.append(event.text)
            event = self._text
        self._events.append(event)

    def _join(self) -> None:
        if self._text is not None:
            self._text.text = "".join(self._pieces)
            self._text = None
            self._pieces.clear()

    def _skip(self, size: int) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, Skipped):
            last.bytes += size
        else:
            self._waiting += _FRAME
            self._add(Skipped(size))


class Execution:
    """A run from its request to its result; made by `Session.submit`."""

    def __init__(self, session_id: str, request: RunRequest, feed: Feed | None) -> None:
        # Tells runs apart and guards nothing, so it need not be hard to guess.
        self.id = request.execution_id or f"exec_{random.getrandbits(80):020x}"
        self.session_id = session_id
        self.request = request
        self.feed = feed
        # Of whoever asked: the worker that runs it has another one.
        self.origin: Context = copy_context()
        self.submitted = time.monotonic()
        self.submitted_at = datetime.now(UTC)
        self.begun: float | None = None
        self.run: Run | None = None
        # What it has shown so far, while it runs.
        self.collector: OutputCollector | None = None
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


def _replaces(event: StreamEvent, last: StreamEvent) -> bool:
    return (
        isinstance(event, Update)
        and isinstance(last, Update)
        and last.display_id == event.display_id
    )


def _event_size(event: StreamEvent) -> int:
    match event:
        case Text():
            return _FRAME + len(event.text)
        case Prompt():
            return _FRAME + len(event.prompt)
        case Display():
            return _FRAME + bundle_size(event.output["data"])
        case Update():
            return _FRAME + bundle_size(event.data)
        case Failure():
            return _FRAME + sum(map(len, event.output["traceback"])) + len(event.output["evalue"])
    return _FRAME
