"""The pseudo-terminals of a shell: its own, which takes in lines, and one for each output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time

_READ = 64 * 1024
_ROWS, _COLUMNS = 24, 80
_OFLAG, _LFLAG = 1, 3
_END_TIMEOUT = 5.0


class Terminal:
    """A pseudo-terminal. Ours are both ends: of `name`, which programs open, and of `near`."""

    def __init__(self) -> None:
        self.near, self.far = pty.openpty()
        self.name = os.ttyname(self.far)
        for descriptor in (self.near, self.far):
            os.set_inheritable(descriptor, False)
            os.set_blocking(descriptor, False)
        size = struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0)
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, size)

    @property
    def echoes(self) -> bool:
        """Whether what is typed is to be seen: not while a password is read."""
        return bool(termios.tcgetattr(self.far)[_LFLAG] & termios.ECHO)

    @property
    def unread(self) -> int:
        """Bytes of whole lines that were typed and that nobody has read."""
        raw = fcntl.ioctl(self.far, termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", raw)[0])

    @property
    def foreground(self) -> int:
        """The process group that reads from it."""
        return os.tcgetpgrp(self.near)

    def read(self) -> bytes:
        """What was printed; empty if nothing waits."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.near, _READ)
        return b""

    def type(self, data: bytes) -> None:
        """Enter `data`; what the terminal does not take at once is given up."""
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[os.write(self.near, data) :]

    def close(self) -> None:
        for descriptor in (self.near, self.far):
            os.close(descriptor)


class Output:
    """A terminal that programs print to: their bytes come out as they went in.

    What is printed reaches the other end a moment later. To have all that was printed until now,
    a mark of ours is printed behind it and waited for.
    """

    def __init__(self, mark: bytes) -> None:
        self._terminal = Terminal()
        attributes = termios.tcgetattr(self._terminal.far)
        attributes[_OFLAG] &= ~termios.OPOST
        attributes[_LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
        termios.tcsetattr(self._terminal.far, termios.TCSANOW, attributes)
        self._mark = mark
        self._marks = 0

    @property
    def name(self) -> str:
        return self._terminal.name

    @property
    def descriptor(self) -> int:
        return self._terminal.near

    def read(self) -> bytes:
        """What was printed; empty if nothing waits."""
        return self._terminal.read()

    def read_all(self) -> bytes:
        """All that was printed before this call, and perhaps what is printed meanwhile."""
        self._marks += 1
        mark = self._mark + b"%d;" % self._marks
        taken = bytearray()
        unsent = mark
        deadline = time.monotonic() + _END_TIMEOUT
        poll = select.poll()
        poll.register(self._terminal.near, select.POLLIN)
        while time.monotonic() < deadline:
            if unsent:
                # Full, if somebody prints without pause: then there is something to read.
                with contextlib.suppress(BlockingIOError):
                    unsent = unsent[os.write(self._terminal.far, unsent) :]
            before = len(taken)
            taken += self._terminal.read()
            at = taken.find(mark, max(0, before - len(mark)))
            if at >= 0:
                del taken[at : at + len(mark)]
                break
            if len(taken) == before:
                poll.poll(10)
        return bytes(taken)

    def close(self) -> None:
        self._terminal.close()
