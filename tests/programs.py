"""Programs that start warm: forked from a process that has imported them, which is quick."""

from __future__ import annotations

import atexit
import functools
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tests.waiting import PATIENCE

_ROOT = Path(__file__).parents[1]
# What a pipe takes that nobody reads yet.
_PIPE_SIZE = 65536


class Command:
    """A command that runs or has ended; leaving the context kills it."""

    def __init__(self, reply: socket.socket, stdout: BinaryIO, stderr: BinaryIO) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self._reply = reply
        _, (self._process,), _, _ = socket.recv_fds(reply, 1, 1)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, once it has ended; negative if a signal ended it."""
        if self.returncode is None:
            self.returncode = self._read_number(seconds)
        assert self.returncode is not None, f"it runs for more than {seconds:g} s"
        return self.returncode

    def finish(self) -> tuple[bytes, bytes]:
        """All that is left of its stdout and stderr, once it has ended."""
        with ThreadPoolExecutor(2) as pool:
            out, err = pool.submit(self.stdout.read), pool.submit(self.stderr.read)
            try:
                self.wait()
            finally:
                self.send_signal(signal.SIGKILL)
            return out.result(), err.result()

    def complete(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` would return."""
        out, err = self.finish()
        return subprocess.CompletedProcess(arguments, self.wait(), out.decode(), err.decode())

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def _read_number(self, seconds: float) -> int | None:
        poll = select.poll()
        poll.register(self._reply, select.POLLIN)
        return int(self._reply.recv(16)) if poll.poll(seconds * 1000) else None

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send_signal(signal.SIGKILL)
            self.wait()
        finally:
            os.close(self._process)
            for file in (self.stdout, self.stderr, self._reply):
                file.close()


class Program:
    """A program in Python, and the process from which it starts warm."""

    def __init__(
        self,
        program: Sequence[str],
        entry: str,
        modules: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """What starts it fresh, what it calls, what it imports, what it has read by then."""
        self._program = list(program)
        self._entry = entry
        self._modules = modules
        self._environment = environment

    def start(
        self,
        *arguments: str,
        cwd: Path,
        environment: Mapping[str, str],
        stdin: str | int = "",
        terminal: bool = False,
        fresh: bool = False,
    ) -> Command:
        """Start a command that reads `stdin`: a text, or what comes from a descriptor.

        On a terminal, which its streams are then, it is the first process of a session.
        """
        request = {
            "program": self._program,
            "arguments": arguments,
            "cwd": str(cwd),
            "environment": dict(environment),
            "new_session": terminal,
            "fresh": fresh,
        }
        reply, their_reply = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stdout: BinaryIO
        stderr: BinaryIO
        if terminal:
            ours, end = pty.openpty()
            stdout = stderr = os.fdopen(ours, "rb", 0)
            ends = [end]
            descriptors = [end] * 3
        else:
            (out, out_end), (err, err_end) = os.pipe(), os.pipe()
            stdout, stderr = os.fdopen(out, "rb"), os.fdopen(err, "rb")
            ends = [out_end, err_end]
            if isinstance(stdin, str):
                stdin = _pipe_with(stdin)
                ends.append(stdin)
            descriptors = [stdin, out_end, err_end]
        with their_reply:
            message = json.dumps(request).encode()
            socket.send_fds(self._warm, [message], [*descriptors, their_reply.fileno()])
        for end in ends:
            os.close(end)
        return Command(reply, stdout, stderr)

    @functools.cached_property
    def _warm(self) -> socket.socket:
        """Where to send requests; it ends with this process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = [sys.executable, "-m", "tests.warm_process", str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(
                [*module, self._entry, *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self._environment,
                cwd=_ROOT,
            )

        def end() -> None:
            ours.close()
            process.wait(PATIENCE)

        atexit.register(end)
        return ours


def _pipe_with(text: str) -> int:
    """The end of a pipe from which `text` can be read."""
    data = text.encode()
    assert len(data) <= _PIPE_SIZE
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(data)
    return reading
