"""The pseudo-terminals of a shell: its own, one that cells read from, and one for each output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Iterator

_READ = 64 * 1024
_ROWS, _COLUMNS = 24, 80
_OFLAG, _LFLAG = 1, 3
_END_TIMEOUT = 5.0
# More than lies between the two ends of a terminal.
_MOST_BETWEEN = 1024 * 1024


class Terminal:
    """A pseudo-terminal. Ours are both ends: of `name`, which programs open, and of `near`.

    What is printed to it comes out byte by byte as it went in.
    """

    def __init__(self, mark: bytes, *, takes_lines: bool) -> None:
        """`mark` is never printed by anybody else."""
        self.near, self.far = pty.openpty()
        self.name = os.ttyname(self.far)
        for descriptor in (self.near, self.far):
            os.set_inheritable(descriptor, False)
            os.set_blocking(descriptor, False)
        size = struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0)
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, size)
        self._attributes = termios.tcgetattr(self.far)
        self._attributes[_OFLAG] &= ~termios.OPOST
        if not takes_lines:
            self._attributes[_LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
        self._look = select.poll()
        self._look.register(self.far, select.POLLIN)
        self._mark = mark
        self._marks = 0
        # The mark that is waited for; empty if none was printed.
        self._awaited = self._unsent = b""
        self.reset()

    @property
    def echoes(self) -> bool:
        """Whether what is typed is to be seen: not while a password is read."""
        return bool(termios.tcgetattr(self.far)[_LFLAG] & termios.ECHO)

    @property
    def takes_keys(self) -> bool:
        """Whether its reader wants single keys and no lines."""
        return not termios.tcgetattr(self.far)[_LFLAG] & termios.ICANON

    @property
    def unread(self) -> int:
        """Bytes that were typed and that nobody has read; of lines, if they are whole."""
        # To look has the terminal take in what was typed, which may else be on its way for long.
        self._look.poll(0)
        raw = fcntl.ioctl(self.far, termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", raw)[0])

    @property
    def foreground(self) -> int:
        """The process group that reads from it."""
        return os.tcgetpgrp(self.near)

    def reset(self) -> None:
        """As it was at first, whatever programs have made of it."""
        # To look costs a tenth of what it costs to set.
        if termios.tcgetattr(self.far) != self._attributes:
            termios.tcsetattr(self.far, termios.TCSANOW, self._attributes)

    def forget(self) -> None:
        """What was typed and not read."""
        termios.tcflush(self.far, termios.TCIFLUSH)

    def read(self) -> bytes:
        """What was printed; empty if nothing waits."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.near, _READ)
        return b""

    def mark(self) -> None:
        """Have the next `read_all` end here, so that several terminals are on their way at once."""
        self._marks += 1
        self._awaited = self._mark + b"%d;" % self._marks
        self._unsent = self._awaited
        self._send_mark()

    def _send_mark(self) -> None:
        # Full, if somebody prints without pause: then there is something to read.
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[os.write(self.far, self._unsent) :]

    def read_all(self) -> Iterator[bytes]:
        """All that was printed before `mark`, or else before this call, and perhaps some more.

        What is printed reaches the other end a moment later, so a mark of ours is printed behind it
        and waited for.
        """
        if not self._awaited:
            self.mark()
        mark, self._awaited = self._awaited, b""
        held = b""
        taken = 0
        deadline = time.monotonic() + _END_TIMEOUT
        poll = select.poll()
        poll.register(self.near, select.POLLIN)
        while time.monotonic() < deadline:
            if self._unsent:
                self._send_mark()
            data = self.read()
            if not data:
                poll.poll(10)
                continue
            taken += len(data)
            data = held + data
            before, found, after = data.partition(mark)
            if found:
                yield before + after
                return
            if self._unsent == mark and taken > _MOST_BETWEEN:
                # Somebody prints without pause and leaves us no room.
                yield data
                return
            kept = len(mark) - 1
            yield data[:-kept]
            held = data[-kept:]
        yield held

    def type(self, data: bytes) -> None:
        """Enter `data`; what the terminal does not take at once is given up."""
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[os.write(self.near, data) :]

    def close(self) -> None:
        for descriptor in (self.near, self.far):
            os.close(descriptor)
