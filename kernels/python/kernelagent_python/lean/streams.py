"""sys.stdout and sys.stderr of a lean kernel."""

from __future__ import annotations

import codecs
import contextlib
import contextvars
import os
import select
import threading
import time
from typing import Any

from ipykernel.iostream import OutStream

from kernelagent_python.lean.publisher import Publisher
from kernelagent_python.streams import DRAIN_LIMIT, FLUSH_INTERVAL, LARGEST_MESSAGE, PIPE_READ

Header = dict[str, Any]

_PROMPT_LINES = 8


class LeanStream(OutStream):  # type: ignore[misc,unused-ignore] # untyped base
    """An OutStream that sends by itself: the first lines after a pause at once, so that they are
    seen and survive a crash right behind them; whatever follows within 50 ms or 256 KiB together.

    Detached, as before the kernel is wired up and in a child that user code forks, it writes to
    the descriptor, line by line; that of a child leads to the parent's kernel. What C code and
    child processes write to the descriptor is taken in by the kernel's thread, and by `drain` when
    a cell ends.
    """

    _parent: Header
    _pieces: list[str]
    _waiting: list[tuple[Header, str]]
    _size: int
    _timed: bool
    # stdout's is stderr, and the other way round.
    other: LeanStream | None = None

    def __init__(self, session: Any, publisher: Publisher, name: str, descriptor: int) -> None:
        # None of the base's: it would start a thread.
        self.session = session
        self.pub_thread: Publisher = publisher
        self.name = name
        self.topic = b"stream." + name.encode()
        self.echo = None
        self._isatty = False
        self._local = threading.local()
        self._parent_header: contextvars.ContextVar[Header] = contextvars.ContextVar(
            "parent_header"
        )
        self._parent_header.set({})
        self._parent_header_global: Header = {}
        self._descriptor = descriptor
        self._original_stdstream_fd = descriptor
        self._original_stdstream_copy: int | None = None
        self._fid: int | None = None
        self._attached = False
        self._clear()

    def attach(self) -> None:
        """Publish from now on, what is written to the descriptor too."""
        self.flush()
        self._clear()
        self._original_stdstream_copy = os.dup(self._descriptor)
        self._fid, into = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fid, False)
        os.dup2(into, self._descriptor)
        os.close(into)
        self._readable = select.poll()
        self._readable.register(self._fid, select.POLLIN)
        self.pub_thread.thread.watch(self._fid, self._take_in)
        self._attached = True

    def abandon(self) -> None:
        """Give the descriptor back, in a forked child that is to be a kernel of its own."""
        self._clear()
        self._attached = False
        if self._original_stdstream_copy is not None:
            os.dup2(self._original_stdstream_copy, self._descriptor)
            os.close(self._original_stdstream_copy)
            self._original_stdstream_copy = None
        if self._fid is not None:
            os.close(self._fid)
            self._fid = None

    def leave_to_parent(self) -> None:
        """In a child that user code forked: write to the descriptor, which is the parent's pipe."""
        self._clear()
        self._attached = False

    @property
    def closed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is closed: the kernel prints to the end."""

    def set_parent(self, parent: Header) -> None:
        # A new cell: its first lines are not held back because the last cell has just printed.
        self._since = 0.0
        super().set_parent(parent)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, string: str) -> int:
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if not self._attached:
            return self._write_down(string)
        other = self.other
        if other is not None and other._size:
            # What was written first is sent first.
            other.flush()
        parent = self.parent_header
        with self._buffer_lock:
            if parent is not self._parent:
                self._close_piece()
                self._parent = parent
            self._size += len(string)
            self._pieces.append(string)
        # Only whole lines: print() writes its line end apart, and both belong in one message.
        if self._size >= LARGEST_MESSAGE or (string[-1:] == "\n" and self._is_prompt()):
            self.flush()
        elif not self._timed:
            self._timed = True
            self.pub_thread.thread.set_timer(FLUSH_INTERVAL)
        return len(string)

    def writelines(self, sequence: Any) -> None:
        for string in sequence:
            self.write(string)

    def flush(self) -> None:
        """Send what is buffered."""
        self._timed = False
        if not self._size:
            return
        if not self._attached:
            self._put_down()
            return
        with self.pub_thread.interrupts.deferred():
            with self._buffer_lock:
                self._close_piece()
                waiting, self._waiting = self._waiting, []
                # In the lock: two flushing threads must not change places.
                for parent, text in waiting:
                    for start in range(0, len(text), LARGEST_MESSAGE):
                        self._send(parent, text[start : start + LARGEST_MESSAGE])
                # Only now: who finds nothing to flush takes it for sent. A finaliser may have
                # printed meanwhile.
                if not self._pieces and not self._waiting:
                    self._size = 0
            self.pub_thread.flush()

    def drain(self) -> None:
        """Take in what was written to the descriptor until now."""
        if self._fid is not None and self._attached:
            self._take_in(DRAIN_LIMIT)

    def _is_prompt(self) -> bool:
        """Whether a line is one of the few that are sent at once in each interval."""
        now = time.monotonic()
        if now - self._since > FLUSH_INTERVAL:
            self._since = now
            self._prompt = 0
        self._prompt += 1
        return self._prompt <= _PROMPT_LINES

    def _send(self, parent: Header, text: str) -> None:
        message: Any = self.session.msg("stream", {"name": self.name, "text": text}, parent=parent)
        for hook in self._hooks:
            message = hook(message)
            if message is None:
                return
        self.session.send(_Later(self.pub_thread), message, ident=self.topic)

    def _take_in(self, limit: int = PIPE_READ) -> None:
        with self._pipe_lock:
            taken = 0
            while taken < limit and self._readable.poll(0):
                data = os.read(self._fid or 0, PIPE_READ)
                if not data:
                    return
                taken += len(data)
                self._write_for_all(self._decoder.decode(data))
                if self._original_stdstream_copy is not None:
                    with contextlib.suppress(OSError):
                        os.write(self._original_stdstream_copy, data)

    def _write_for_all(self, text: str) -> None:
        # Whose it is cannot be known: the cell's that runs, whichever thread reads it.
        token = self._parent_header.set(self._parent_header_global)
        try:
            self.write(text)
        finally:
            self._parent_header.reset(token)

    def _write_down(self, string: str) -> int:
        with self._buffer_lock:
            self._size += len(string)
            self._pieces.append(string)
        # Others write to the same pipe, and their lines shall not come between print()'s parts.
        if "\n" in string or self._size >= LARGEST_MESSAGE:
            self._put_down()
        return len(string)

    def _put_down(self) -> None:
        with self._buffer_lock:
            data = memoryview("".join(self._pieces).encode("utf-8", "replace"))
            self._pieces = []
            self._size = 0
            while data:
                data = data[os.write(self._descriptor, data) :]

    def _close_piece(self) -> None:
        if self._pieces:
            self._waiting.append((self._parent, "".join(self._pieces)))
            self._pieces = []

    def _clear(self) -> None:
        self._buffer_lock = threading.RLock()
        self._pipe_lock = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parent = {}
        self._pieces = []
        self._waiting = []
        self._size = 0
        self._since = 0.0
        self._prompt = 0
        self._timed = False


class _Later:
    """Where a session sends what the publisher shall send with its next flush."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def send_multipart(self, msg: list[Any], **_: Any) -> None:
        if self._publisher.forked:
            self._publisher.send_multipart(msg)
        else:
            self._publisher.add(msg)


_streams: list[LeanStream] = []


def make_streams(session: Any, publisher: Publisher) -> tuple[LeanStream, LeanStream]:
    """stdout and stderr, once per process."""
    pair = (
        LeanStream(session, publisher, "stdout", 1),
        LeanStream(session, publisher, "stderr", 2),
    )
    pair[0].other, pair[1].other = pair[1], pair[0]
    _streams[:] = pair
    os.register_at_fork(after_in_child=_leave_all_to_parent)
    return pair


def drain_all() -> None:
    """Take in what C code and children have written past Python."""
    for stream in _streams:
        stream.drain()


def flush_all() -> None:
    """Send what is buffered, whatever sys.stdout and sys.stderr are now."""
    for stream in _streams:
        stream.flush()


def _leave_all_to_parent() -> None:
    for stream in _streams:
        stream.leave_to_parent()
