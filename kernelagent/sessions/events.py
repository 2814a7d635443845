"""The events of a run on their way to all who follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kernelagent.jupyter.events import Begun, Display, Event, Failure, Prompt, Text, Update
from kernelagent.jupyter.outputs import bundle_size

# Room in a feed for what must reach its reader.
_RESERVE = 2**20
# What an event takes beside its data.
_FRAME = 64


@dataclass(slots=True)
class Skipped:
    """The reader was too slow: this many bytes of events were left out; the result has them."""

    bytes: int


class Events:
    """The events of one run, passed to everyone who follows them, in order.

    A follower neither waits nor raises, and changes nothing in an event: others get the same.
    """

    def __init__(self) -> None:
        self._followers: tuple[Callable[[Event], None], ...] = ()

    def follow(self, follower: Callable[[Event], None]) -> None:
        """Call `follower` with each event from now on."""
        self._followers = (*self._followers, follower)

    def leave(self, follower: Callable[[Event], None]) -> None:
        """Call `follower` no more."""
        self._followers = tuple(other for other in self._followers if other != follower)

    def put(self, event: Event) -> None:
        """Pass an event on."""
        for follower in self._followers:
            follower(event)


class Feed:
    """The events of one run on their way to one reader.

    Text that waits is joined, updates of one display replace each other, and what waits is bounded:
    beyond `limit` bytes events are left out, and in their place stands how much that was. Questions
    and errors have some room of their own, for without them a reader could not go on.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event | Skipped] = deque()
        # The text at the end, in pieces: joining them one by one would take quadratic time.
        self._text: Text | None = None
        self._pieces: list[str] = []
        self._waiting = 0
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
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

    async def next(self) -> list[Event | Skipped]:
        """All events that wait, at least one; empty once the feed is closed and read."""
        await self._ready.wait()
        self._join()
        events = list(self._events)
        self._events.clear()
        self._waiting = 0
        if not self._closed:
            self._ready.clear()
        return events

    def _add(self, event: Event | Skipped) -> None:
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


def _replaces(event: Event, last: Event | Skipped) -> bool:
    return (
        isinstance(event, Update)
        and isinstance(last, Update)
        and last.display_id == event.display_id
    )


def _event_size(event: Event | Skipped) -> int:
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
