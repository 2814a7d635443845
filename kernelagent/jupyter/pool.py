"""Warm kernels of one language: leased at once, refilled when the lessee has had its first run."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from pathlib import Path
from typing import Any

from kernelagent.errors import ServiceClosing, SessionLimit
from kernelagent.jupyter.kernel import Kernel

log = logging.getLogger(__name__)

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 60.0
# Refill even if the lessee never runs anything.
_REFILL_AFTER = 2.0
# A start takes a core for half a second: not the one of the run that follows the first.
_REFILL_SETTLED = 0.2

# Starting more at once than there are cores makes each of them slower.
_STARTS_AT_ONCE = max(2, os.cpu_count() or 1)


class Pool:
    """Keeps `min_idle` never-used kernels ready; at most `limit` live kernels in all.

    A lease takes a warm kernel at once, or the next one that starts. A kernel that was leased
    never returns: `release` ends it.
    """

    def __init__(
        self,
        start: Callable[..., Awaitable[Kernel]],
        *,
        min_idle: int,
        limit: int,
    ) -> None:
        self._start = start
        self._min_idle = min_idle
        self._limit = limit
        self._idle: deque[Kernel] = deque()
        self._leased: set[Kernel] = set()
        self._waiting: deque[asyncio.Future[Kernel]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0
        self._adopting = 0
        self._gate = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._refill: asyncio.TimerHandle | None = None
        self._settled = False
        self._failures = 0
        self._closed = False
        self.last_error = ""

    @property
    def idle(self) -> int:
        """Warm kernels ready now."""
        return len(self._idle)

    @property
    def idle_kernels(self) -> list[Kernel]:
        """The warm kernels, the next one to be leased first."""
        return list(self._idle)

    @property
    def warm(self) -> bool:
        """Whether a kernel waits, or the next one to wait is on its way behind those leased."""
        return bool(self._idle or (self._leased and not self.last_error))

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels that have started, warm and leased ones."""
        return [*self._idle, *self._leased]

    @property
    def live(self) -> int:
        """Kernels that exist or are being started."""
        return len(self._idle) + len(self._leased) + self._starting + self._adopting

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers for /health and the metrics."""
        return {
            "idle": self.idle,
            "starting": self._starting,
            "leased": len(self._leased),
            "wanted": self._min_idle,
            "error": self.last_error,
        }

    def fill(self) -> None:
        """Start what is missing."""
        self._settled = False
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None
        if self._closed:
            return
        missing = self._min_idle + len(self._waiting) - len(self._idle) - self._starting
        for _ in range(min(missing, self._limit - self.live)):
            self._start_one()

    async def lease(self) -> Kernel:
        """A kernel that was never used; raises KernelStartFailed, SessionLimit."""
        self._refuse_if_closed()
        while self._idle:
            kernel = self._idle.popleft()
            if kernel.alive:
                self._leased.add(kernel)
                self._fill_later(_REFILL_AFTER)
                return kernel
            self._end(kernel)
        if self._starting <= len(self._waiting):
            self._check_limit()
            self._start_one()
        waiter: asyncio.Future[Kernel] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                await self.release(waiter.result(), polite=False)
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def start(self, env: Mapping[str, str], cwd: Path | None) -> Kernel:
        """A kernel that begins with `env` in `cwd`, since it cannot be told later.

        Raises KernelStartFailed, SessionLimit.
        """
        return await self.adopt(lambda: self._start(env, cwd))

    async def adopt(self, make: Callable[[], Awaitable[Kernel]]) -> Kernel:
        """Count the kernel that `make` gives as leased; raises SessionLimit, and what it raises."""
        self._refuse_if_closed()
        self._check_limit()
        self._adopting += 1
        try:
            kernel = await make()
        finally:
            self._adopting -= 1
        self._leased.add(kernel)
        try:
            self._refuse_if_closed()
        except ServiceClosing:
            await self.release(kernel, polite=False)
            raise
        return kernel

    def settled(self) -> None:
        """A lessee has had a run: refilling will not slow its first one."""
        if self._refill is not None and not self._settled:
            self._settled = True
            self._refill.cancel()
            self._fill_at(_REFILL_SETTLED)

    async def release(self, kernel: Kernel, *, polite: bool = True) -> None:
        """End a leased kernel."""
        try:
            await kernel.stop(polite=polite)
        finally:
            self._leased.discard(kernel)

    async def close(self) -> None:
        """End all kernels, leased ones too, and starts under way."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(ServiceClosing("the service is shutting down"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        kernels = [*self._idle, *self._leased]
        self._idle.clear()
        await asyncio.gather(*(self.release(kernel) for kernel in kernels))

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ServiceClosing("the service is shutting down")

    def _check_limit(self) -> None:
        if self.live >= self._limit:
            raise SessionLimit(
                f"{self._limit} kernels are alive, as many as the settings allow; close a "
                "session first",
                details={"limit": self._limit},
            )

    def _fill_later(self, seconds: float) -> None:
        if self._refill is None and not self._closed:
            self._fill_at(seconds)

    def _fill_at(self, seconds: float) -> None:
        # In an empty context: it is no part of the request that happened to cause it.
        loop = asyncio.get_running_loop()
        self._refill = loop.call_later(seconds, self.fill, context=Context())

    def _start_one(self) -> None:
        self._starting += 1
        self._own(self._start_and_place())

    def _own(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_and_place(self) -> None:
        try:
            async with self._gate:
                kernel = await self._start()
        except Exception as error:
            self._starting -= 1
            self._note_failure(error)
            return
        except BaseException:
            self._starting -= 1
            raise
        self._starting -= 1
        self._failures = 0
        self.last_error = ""
        self._place(kernel)

    def _place(self, kernel: Kernel) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            self._leased.add(kernel)
            waiter.set_result(kernel)
            self._fill_later(_REFILL_AFTER)
        elif self._closed:
            self._end(kernel)
        else:
            self._idle.append(kernel)
            kernel.exited.add_done_callback(lambda _: self._on_idle_exit(kernel))

    def _next_waiter(self) -> asyncio.Future[Kernel] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self.last_error = str(error)
        log.warning("a kernel could not be started: %s", error)
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_exception(error)
        # One that fails is not started over and over at full speed.
        pause = min(_FIRST_BACKOFF * 2 ** (self._failures - 1), _LONGEST_BACKOFF)
        self._fill_later(pause)

    def _on_idle_exit(self, kernel: Kernel) -> None:
        if kernel not in self._idle:
            return
        self._idle.remove(kernel)
        log.warning("an idle kernel ended: %s", kernel.death().describe())
        self._end(kernel)
        self._fill_later(_FIRST_BACKOFF)

    def _end(self, kernel: Kernel) -> None:
        self._own(self.release(kernel, polite=False))
