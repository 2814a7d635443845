"""SIGINT for a kernel whose code runs in another process: it is passed on, nothing is raised."""

from __future__ import annotations

import contextlib
import os

from kernelagent_python.lean.interrupts import Interrupts


class HostInterrupts(Interrupts):
    """Interrupts that make a descriptor readable while a run is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptor = -1

    def attach(self) -> None:
        """Make the descriptor, in the process that is to be a kernel."""
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def take(self) -> bool:
        """Whether there was an interrupt since the last call."""
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self.descriptor) > 0
        return False

    def _interrupt(self) -> None:
        os.eventfd_write(self.descriptor, 1)
