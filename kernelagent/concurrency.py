"""Tasks that belong to somebody: waited for together, given up, and in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

# Waits until a caller is gone.
Disconnected = Callable[[], Awaitable[None]]

# Why the work of a caller that is gone is stopped.
CLIENT_LEFT = "the client left"

# After a round that failed, the next one comes no sooner (seconds).
_FAULT_PAUSE = 1.0


async def ends_first(work: asyncio.Future[Any], disconnected: Disconnected) -> bool:
    """Return whether `work` ends before the caller leaves; it is not cancelled."""
    if work.done():
        return True
    leaving = asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            # What went wrong with the connection is told.
            leaving.result()
        return work.done()
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


async def race(*work: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Do all of `work` until the first of it ends; the rest is cancelled. Return their tasks.

    None of them runs any more then. Raises what one of them has raised, the first in order.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return tasks


class Loop:
    """Does `work` again and again in the background, `pause` seconds after it was done.

    A round that fails is logged, and does not end it. `close` in any case.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], pause: float = 0) -> None:
        self._name = name
        self._work = work
        self._pause = pause
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin; the first round comes after a pause."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """End it, in the middle of a round too. May be repeated."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        pause = self._pause
        while True:
            await asyncio.sleep(pause)
            pause = self._pause
            try:
                await self._work()
            except Exception:
                log.exception("%s: a round failed", self._name)
                pause = max(pause, _FAULT_PAUSE)
