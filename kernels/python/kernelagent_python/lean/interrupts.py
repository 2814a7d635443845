"""SIGINT reaches the code of the cell it was meant for, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Interrupts:
    """The one handler of SIGINT, for the kernel's whole life.

    Between cells a signal is ignored. From the moment a request is `expected` it is kept, and
    raised when the cell is `entered`; inside a cell it raises KeyboardInterrupt, or cancels the
    cell's task while that waits in the event loop. Sending is `deferred`: a message cut in half
    would corrupt the socket. After `leave`, a signal has come too late for the cell.

    All methods are the main thread's.
    """

    def __init__(self) -> None:
        self.depth = 0
        # Signals that have come so far.
        self.noticed = 0
        # An attribute is stored without a chance for a signal in between, unlike a call.
        self.entered = False
        self._expected = False
        self._pending = False
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def install(self) -> None:
        """Take SIGINT over, or back from user code that has set a handler of its own."""
        if signal.getsignal(signal.SIGINT) != self._on_signal:
            signal.signal(signal.SIGINT, self._on_signal)

    def expect(self) -> None:
        """A request has come: a signal from now on is meant for it."""
        self.entered = False
        self._pending = False
        self._expected = True
        self.install()

    def enter(self) -> None:
        """User code begins; raises KeyboardInterrupt if it was interrupted already."""
        self.entered = True
        self._expected = False
        self.raise_pending()

    def leave(self) -> None:
        """User code has ended."""
        self.entered = self._expected = self._pending = False

    def raise_pending(self) -> None:
        """Interrupt the cell if that was put off."""
        if self._pending and self.entered and not self.depth:
            self._pending = False
            self._interrupt()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Put signals off until the end of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
        self.raise_pending()

    @contextlib.contextmanager
    def cancelling(
        self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop
    ) -> Iterator[None]:
        """While the cell is `task`, cancel it if a signal finds it waiting."""
        self._task, self._loop = task, loop
        try:
            yield
        finally:
            self._task = self._loop = None

    @property
    def cancellable(self) -> bool:
        """Whether the cell is a task that has not ended."""
        return self._task is not None and not self._task.done()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.noticed += 1
        if self.depth or self._expected:
            self._pending = True
        elif self.entered:
            self._interrupt()

    def _interrupt(self) -> None:
        task, loop = self._task, self._loop
        if task is None or loop is None:
            raise KeyboardInterrupt
        running = asyncio.current_task(loop)
        # As long as code runs, the loop does not come round to a cancellation. In asyncio's own
        # code around it an exception would leave tasks that nobody wakes.
        at_once = running is not None and _runs(running)
        if running is not task or not at_once:
            loop.call_soon_threadsafe(task.cancel)
        if at_once:
            raise KeyboardInterrupt


def _runs(task: asyncio.Task[Any]) -> bool:
    """Whether we are called, however indirectly, from the code of `task`."""
    code: Any = getattr(task.get_coro(), "cr_frame", None)
    frame: Any = sys._getframe()
    while frame is not None and frame is not code:
        frame = frame.f_back
    return frame is not None
