"""Runs with several callers: each goes on as long as one of them waits, and ends with its owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from kernelagent.concurrency import Disconnected, ends_first
from kernelagent.errors import ApiError, ServiceClosing

T = TypeVar("T")

log = logging.getLogger(__name__)

# What the end of the engine has ended needs a moment to tell so.
_CLOSE_GRACE = 1.0


class Flight(Generic[T]):
    """One run and those who wait for it; made by `Flights.start`.

    `work` gets what waits until the flight is abandoned: until all callers have left, unless one
    of them wants it to go on.
    """

    def __init__(self, work: Callable[[Disconnected], Awaitable[T]]) -> None:
        self.abandoned = asyncio.Event()
        self._work = work
        self._callers = 0
        self._held = False
        self.task: asyncio.Task[T] = asyncio.create_task(self._run(), name="flight")
        self.task.add_done_callback(self._ended)

    async def join(self, disconnected: Disconnected, *, hold: bool = False) -> T | None:
        """What the run comes to, or its error; None if this caller leaves before that.

        With `hold` the run goes on whoever leaves.
        """
        self._held = self._held or hold
        self._callers += 1
        try:
            if not await ends_first(self.task, disconnected):
                return None
            if self.task.cancelled():
                raise ServiceClosing("the service is shutting down")
            return self.task.result()
        finally:
            self._callers -= 1
            if not self._callers and not self._held and not self.task.done():
                self.abandoned.set()

    async def _run(self) -> T:
        return await self._work(self._until_abandoned)

    async def _until_abandoned(self) -> None:
        await self.abandoned.wait()

    def _ended(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        # Whoever waits answers with it and logs it.
        if error is not None and not self._callers and not isinstance(error, ApiError):
            log.error("a run without callers failed inside the service", exc_info=error)


class Flights(Generic[T]):
    """The flights of one owner, by key; `close` in any case."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def find(self, key: Hashable) -> Flight[T] | None:
        """The flight that can be joined under this key; join it before anything is awaited."""
        flight = self._known.get(key)
        return None if flight is None or flight.abandoned.is_set() else flight

    def start(self, key: Hashable, work: Callable[[Disconnected], Awaitable[T]]) -> Flight[T]:
        """A new flight in place of any other of this key; join it before anything is awaited."""
        if self._closed:
            raise ServiceClosing("the service is shutting down")
        flight = Flight(work)
        self._known[key] = flight
        self._tasks.add(flight.task)

        def forget(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if self._known.get(key) is flight:
                del self._known[key]

        flight.task.add_done_callback(forget)
        return flight

    async def close(self) -> None:
        """Called when the engine has ended all runs: no task is left."""
        self._closed = True
        tasks = list(self._tasks)
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=_CLOSE_GRACE)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
