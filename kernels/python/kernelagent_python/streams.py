"""Standard streams that reach the client promptly, whole and in messages of bounded size."""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from ipykernel.iostream import OutStream

FLUSH_INTERVAL = 0.05
LARGEST_MESSAGE = 256 * 1024
PIPE_READ = 64 * 1024
# A child that writes without pause must not keep a cell from ending.
DRAIN_LIMIT = 4 * 2**20
_DEADLY = {signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV, signal.SIGQUIT}

_streams: list[PromptOutStream] = []


class PromptOutStream(OutStream):  # type: ignore[misc,unused-ignore] # untyped base
    """An OutStream that sends the first line after a pause at once.

    Stock streams hold everything back for 0.2 s, in a buffer without a bound. Here a line that
    follows a pause leaves before `write` returns, so that it is seen at once and survives a crash
    right behind it; what follows is gathered for 50 ms or 256 KiB, whichever comes first.

    What C code and child processes write to the descriptor itself is taken in by a thread, and by
    `drain` at the end of each cell: it belongs to that cell.
    """

    flush_interval = FLUSH_INTERVAL

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._flushed_at = 0.0
        self._unflushed = 0
        self._sending = False
        self._pipe_lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        super().__init__(*args, **kwargs)
        _streams.append(self)

    def set_parent(self, parent: dict[str, Any]) -> None:
        # A new cell: its first line is not held back because the last cell has just printed.
        self._flushed_at = 0.0
        super().set_parent(parent)

    def flush(self) -> None:
        """Send what is buffered; with nothing to send, this costs nothing.

        Stock streams hand over to their sending thread and wait for it twice, six times per cell.
        """
        if self._unflushed or self._sending or not self._is_master_process():
            super().flush()

    def _flush(self) -> None:
        # In this order: who finds nothing unflushed must know that it may be on its way.
        self._sending = True
        if self._unflushed:
            self._flushed_at = time.monotonic()
            self._unflushed = 0
        try:
            super()._flush()
        finally:
            self._sending = False

    def write(self, string: str) -> int | None:
        # A huge text is sent in parts: clients limit the size of one message.
        if len(string) > LARGEST_MESSAGE:
            for start in range(0, len(string), LARGEST_MESSAGE):
                self.write(string[start : start + LARGEST_MESSAGE])
            return len(string)
        written: int | None = super().write(string)
        self._unflushed += len(string)
        # Only whole lines: print() writes its line end apart, and both belong in one message.
        if (
            self._unflushed >= LARGEST_MESSAGE
            or (string.endswith("\n") and time.monotonic() - self._flushed_at > self.flush_interval)
        ) and self._is_master_process():
            self.flush()
        return written

    def drain(self) -> None:
        """Take in what was written to the descriptor until now."""
        if not self._should_watch or not self._is_master_process():
            return
        taken = 0
        with self._pipe_lock:
            while taken < DRAIN_LIMIT and _is_readable(self._fid, 0):
                taken += self._take_from_pipe()

    def _watch_pipe_fd(self) -> None:
        # Stock code reads and writes without a lock, so nobody can tell when all has arrived.
        while self._should_watch:
            _is_readable(self._fid, None)
            with self._pipe_lock:
                # `drain` may have been quicker.
                if self._should_watch and _is_readable(self._fid, 0) and not self._take_from_pipe():
                    return

    def _take_from_pipe(self) -> int:
        data = os.read(self._fid, PIPE_READ)
        text = self._decoder.decode(data)
        if text:
            self.write(text)
        with contextlib.suppress(OSError):
            os.write(self._original_stdstream_copy, data)
        return len(data)


def _is_readable(descriptor: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout))


def drain_descriptors() -> None:
    """Take in what C code and children have written past Python, for all streams."""
    for stream in _streams:
        stream.drain()


real_exit = os._exit


class _Kernel:
    """Which process is the kernel; 0 as long as nothing is in place."""

    pid = 0


def flush_before_exit() -> None:
    """Let a kernel that ends itself send what it printed; forked children end as always.

    Covers `os._exit`, `os.abort` and a deadly `os.kill` of the kernel by its own code. Called again
    in a process that was forked to be a kernel of its own.
    """
    in_place, _Kernel.pid = _Kernel.pid != 0, os.getpid()
    if in_place:
        return
    leave, abort, kill = os._exit, os.abort, os.kill

    def send_all() -> None:
        if os.getpid() != _Kernel.pid:
            return
        for stream in (sys.stdout, sys.stderr):
            # A broken stream must not keep the process from ending.
            with contextlib.suppress(Exception):
                stream.flush()
        # The messages have left Python; ZeroMQ's own thread writes them to the socket.
        time.sleep(0.01)

    @functools.wraps(leave)
    def exit_after_flush(status: int) -> Any:
        send_all()
        leave(status)

    @functools.wraps(abort)
    def abort_after_flush() -> Any:
        send_all()
        abort()

    @functools.wraps(kill)
    def kill_after_flush(pid: int, signal_number: int) -> None:
        if pid in (_Kernel.pid, 0, -_Kernel.pid) and signal_number in _DEADLY:
            send_all()
        kill(pid, signal_number)

    os._exit = exit_after_flush
    os.abort = abort_after_flush
    os.kill = kill_after_flush
