"""A value that is costly to get: got by one at a time, kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Brief(Generic[Value]):
    """Whatever many ask for it, `get` runs once in `seconds`; `close` waits for its end."""

    def __init__(self, get: Callable[[], Awaitable[Value]], seconds: float) -> None:
        self._get = get
        self._seconds = seconds
        self._until = 0.0
        self._task: asyncio.Task[Value] | None = None

    async def value(self) -> Value:
        """A value that is at most so old; raises what `get` raises."""
        task = self._task
        if task is None or (task.done() and time.monotonic() >= self._until):
            task = self._task = asyncio.create_task(self._renew(), name="a brief value")
        # Whoever waits may leave; the others still want it.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait until nothing is under way."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _renew(self) -> Value:
        value = await self._get()
        self._until = time.monotonic() + self._seconds
        return value
