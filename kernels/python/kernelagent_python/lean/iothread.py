"""The one thread of a lean kernel that serves descriptors; it sleeps while nothing happens."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from kernelagent_python.timer import Timer

# ipykernel tells by the name of the thread whether a request came over the control channel.
NAME = "Control"


class IoThread(threading.Thread):
    """Calls back when a descriptor can be read, and `on_timer` when a delay is over.

    A plain poll: unlike an event loop it owns nothing that a forked child would share.
    """

    def __init__(self, on_timer: Callable[[], object]) -> None:
        super().__init__(name=NAME, daemon=True)
        self._callback_of_timer = on_timer
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._timer = Timer()
        self.watch(self._wake, self._on_wake)
        self.watch(self._timer.descriptor, self._on_timer)
        # Debuggers leave it alone.
        self.pydev_do_not_trace = True
        self.is_pydev_daemon_thread = True

    @property
    def descriptors(self) -> tuple[int, int]:
        """Its own, for whoever has to close them in a forked child."""
        return self._wake, self._timer.descriptor

    def watch(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call `callback` in this thread whenever `descriptor` can be read or is hung up."""
        self._callbacks[descriptor] = callback
        self._poll.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """The thread itself may call this."""
        self._poll.unregister(descriptor)
        del self._callbacks[descriptor]

    def set_timer(self, seconds: float) -> None:
        """Have `on_timer` called once; replaces an earlier delay. Does not wake the thread."""
        self._timer.set(seconds)

    def stop(self) -> None:
        """End the thread once it has done what it is at; may be called from any thread."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self and self.is_alive():
            self.join(5)

    def run(self) -> None:
        # Signals are for the main thread: one taken here would not wake it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._stopping:
            for descriptor, _ in self._poll.poll():
                callback = self._callbacks.get(descriptor)
                if callback is None:
                    continue
                try:
                    callback()
                except Exception:
                    # Must live on; and sys.stderr may be what has failed.
                    traceback.print_exc(file=sys.__stderr__)
                    time.sleep(0.01)

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _on_timer(self) -> None:
        self._timer.take()
        self._callback_of_timer()
