"""A pseudo-terminal: what we hold of it, and the end that a program gets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Callable
from pathlib import Path

from kernelagent.processes.process import kill_pinned

# The kernel hands out a page at a time.
_PAGE = 64 * 1024
_WRITE = 16 * 1024


class Pty:
    """An open pseudo-terminal; `close` is owed.

    Raises OSError if the system has none left. The program's end is kept open with ours: so reading
    never fails, however often the program closes and opens it.
    """

    def __init__(self, cols: int, rows: int) -> None:
        self._ours, self.program_end = os.openpty()
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._writes = False
        self._on_progress: Callable[[], None] = _nothing
        self.cols, self.rows = cols, rows
        try:
            os.set_blocking(self._ours, False)
            termios.tcsetwinsize(self._ours, (rows, cols))
        except BaseException:
            self.close()
            raise

    @property
    def open(self) -> bool:
        """Whether it is not closed yet."""
        return self._ours >= 0

    @property
    def waiting_bytes(self) -> int:
        """Input that the program has not taken yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Let go of it; may be repeated."""
        if self._ours < 0:
            return
        self.stop_reading()
        if self._writes:
            self._loop.remove_writer(self._ours)
            self._writes = False
        self._waiting.clear()
        for descriptor in (self._ours, self.program_end):
            os.close(descriptor)
        self._ours = self.program_end = -1

    def start_reading(self, callback: Callable[[], None]) -> None:
        """Call back whenever there is output, until `stop_reading`."""
        if self._ours >= 0:
            self._loop.add_reader(self._ours, callback)

    def stop_reading(self) -> None:
        """No more calls back; the program has to wait once the system's buffer is full."""
        if self._ours >= 0:
            self._loop.remove_reader(self._ours)

    def read(self) -> bytes:
        """What was printed; empty if nothing is there now. Raises OSError once it was hung up."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._ours, _PAGE)
        return b""

    def write(self, data: bytes, on_progress: Callable[[], None]) -> None:
        """Queue input; `on_progress` is called whenever the program has taken some of it."""
        if self._ours < 0:
            return
        self._on_progress = on_progress
        self._waiting += data
        if not self._writes:
            self._flush()

    def resize(self, cols: int, rows: int) -> None:
        """Another size; the system tells the program of it."""
        if self._ours >= 0:
            termios.tcsetwinsize(self._ours, (rows, cols))
            self.cols, self.rows = cols, rows

    def signal(self, number: int) -> None:
        """Signal the program in the foreground, as a key would; raises PermissionError."""
        if self._ours < 0:
            return
        group = os.tcgetpgrp(self._ours)
        # 0 would be our own group; it means that the program's is not to be seen from here.
        if group > 1:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    def _flush(self) -> None:
        # A bounded number of writes: whoever reads fast must not hold the loop.
        for _ in range(8):
            if not self._waiting:
                break
            try:
                written = os.write(self._ours, self._waiting[:_WRITE])
            except BlockingIOError:
                break
            del self._waiting[:written]
            self._on_progress()
        if bool(self._waiting) != self._writes:
            self._writes = bool(self._waiting)
            if self._writes:
                self._loop.add_writer(self._ours, self._flush)
            else:
                self._loop.remove_writer(self._ours)

    def kill_users(self) -> None:
        """End whoever has the program's end as a standard stream, whatever its parent and group.

        Those that changed their environment too are found in no other way. Blocks on /proc, so it
        is called in a thread.
        """
        ours = os.fstat(self.program_end)
        wanted = (ours.st_dev, ours.st_ino)
        users = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(int(entry.name))
                if any(_is(entry / "fd" / name, wanted) for name in ("0", "1", "2")):
                    users.append(pidfd)
                else:
                    os.close(pidfd)
        kill_pinned(users)


def _is(path: Path, wanted: tuple[int, int]) -> bool:
    try:
        # First by its name: to look at a file itself takes for ever if its disk does not answer.
        if not str(path.readlink()).rpartition("/")[0].endswith("pts"):
            return False
        found = path.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == wanted


def _nothing() -> None: ...
