"""Changes on their way from the thread that finds them to the client: a bounded feed."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kernelagent.errors import ApiError


class Event(StrEnum):
    """What has happened to a path, as the wire calls it."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"
    RENAMED = "renamed"


@dataclass(frozen=True, slots=True)
class Change:
    """One change. Paths are relative to what is watched and may hold lone surrogates."""

    event: Event
    path: str
    is_directory: bool
    old_path: str | None = None


class Ending(StrEnum):
    """Why there will be no more changes."""

    GONE = "gone"
    CLOSING = "closing"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Overflow:
    """Changes were lost: more of them waited than are kept, or the system lost count of them."""

    lost: int


class ChangeFeed:
    """Changes that wait for the client, at most `limit`; beyond it they are lost, and that is told.

    Filled by one thread, read by one task of `loop`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[Change] = deque()
        # Paths of which a change waits that says that there is new content.
        self._fresh: set[str] = set()
        self._lost: int | None = None
        self._ending: Ending | ApiError | None = None
        self._filled = asyncio.Event()

    @property
    def ending(self) -> Ending | ApiError | None:
        """Why it has ended, once it has."""
        return self._ending

    def put(self, changes: Iterable[Change]) -> None:
        """Add changes, from any thread."""
        with self._lock:
            for change in changes:
                self._add(change)
        self._wake()

    def lose(self, count: int = 0) -> None:
        """Tell that changes were lost before they could be counted, from any thread."""
        with self._lock:
            self._lost = (self._lost or 0) + count
        self._wake()

    def end(self, ending: Ending | ApiError) -> None:
        """Nothing follows, from any thread; the first reason counts."""
        with self._lock:
            self._ending = self._ending or ending
        self._wake()

    async def next(self, most: int) -> list[Change] | Overflow | None:
        """What waits, as soon as something does; None at the end."""
        while True:
            self._filled.clear()
            with self._lock:
                if self._lost is not None:
                    overflow, self._lost = Overflow(self._lost), None
                    return overflow
                if self._waiting:
                    return self._take(most)
                if self._ending is not None:
                    return None
            await self._filled.wait()

    def _add(self, change: Change) -> None:
        path = change.path
        if change.event is Event.MODIFIED and path in self._fresh:
            return
        if len(self._waiting) >= self._limit:
            self._lost = (self._lost or 0) + len(self._waiting)
            self._waiting.clear()
            self._fresh.clear()
        self._waiting.append(change)
        if change.event in (Event.CREATED, Event.MODIFIED):
            self._fresh.add(path)
        elif change.is_directory:
            # What is beneath it may have gone with it.
            self._fresh.clear()
        else:
            self._fresh -= {path, change.old_path}

    def _take(self, most: int) -> list[Change]:
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._fresh.difference_update(change.path for change in taken)
        return taken

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._filled.set)
