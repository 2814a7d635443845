"""One command: a process in a group of its own, fed, read, limited and ended with all its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kernelagent.commands.output import LONGEST_PIECE
from kernelagent.outcome import Outcome
from kernelagent.processes.process import (
    PLAIN,
    ChildProcess,
    ExitStatus,
    Program,
    Starter,
    describe_refusal,
)

# What people end processes with; other signals tell of a fault.
ENDING_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})

# One read makes one piece, which is copied no more.
_CHUNK = LONGEST_PIECE
# Output that a sink still holds beyond which the command has to wait with more.
_MOST_WAITING = 2**20
# Whoever could still write has been killed by then; what stands in the pipe is read all the same.
_LAST_WORDS = 5.0


class Sink(Protocol):
    """Takes what a command prints."""

    @property
    def backlog_bytes(self) -> int:
        """How much of it is still on its way."""

    def write(self, stream: str, data: bytes) -> None:
        """Take a piece of `stdout` or `stderr`; never waits."""

    async def drained(self) -> None:
        """Wait until more can be taken."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """What is run and for how long; `grace` is between SIGTERM and SIGKILL, in seconds."""

    program: Program
    timeout: float
    grace: float
    stdin: bytes | None = None
    starter: Starter = PLAIN


@dataclass(slots=True)
class CommandEnding:
    """How a command ended; `message` says why, where its exit code does not."""

    outcome: Outcome
    exit_code: int
    message: str = ""
    seconds: float = 0.0
    # CPU seconds and most bytes of memory, where they are known.
    usage: tuple[float, int] | None = None


def argv_of(command: str, args: Sequence[str] | None) -> tuple[str, ...]:
    """The argument vector itself if there are `args`, else the shell with a line."""
    if args is not None:
        return (command, *args)
    return (shutil.which("bash") or "/bin/sh", "-c", command)


class Command:
    """A command: `go` once, `stop` at any time."""

    def __init__(self, spec: CommandSpec, sink: Sink) -> None:
        self._spec = spec
        self._sink = sink
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def go(self, on_start: Callable[[int], None]) -> CommandEnding:
        """Run it to its end, and end what it has started with it.

        `on_start` gets its process id.
        """
        spec = self._spec
        started = time.monotonic()
        with _Pipe() as stdin, _Pipe() as stdout, _Pipe() as stderr:
            descriptors = {1: stdout.writer, 2: stderr.writer}
            if spec.stdin is None:
                stdin.close()
            else:
                descriptors[0] = stdin.reader
            program = replace(spec.program, descriptors=descriptors)
            try:
                child = ChildProcess.start(program, spec.starter)
            except (OSError, ValueError) as error:
                code = 127 if isinstance(error, FileNotFoundError) else 126
                return CommandEnding(Outcome.ERROR, code, describe_refusal(program.argv, error))
            finally:
                stdin.close_reader()
                stdout.close_writer()
                stderr.close_writer()
            readers = [
                asyncio.create_task(self._read(pipe, name))
                for pipe, name in ((stdout, "stdout"), (stderr, "stderr"))
            ]
            feeder = asyncio.create_task(stdin.write(spec.stdin or b""))
            try:
                on_start(child.pid)
                ending = await self._follow(child)
            finally:
                try:
                    await asyncio.shield(child.kill())
                finally:
                    feeder.cancel()
                    for pipe in (stdout, stderr):
                        pipe.expect_end(_LAST_WORDS)
                    await asyncio.gather(feeder, *readers, return_exceptions=True)
        ending.seconds = time.monotonic() - started
        ending.usage = child.usage
        return ending

    def stop(self, reason: str) -> None:
        """Ask the command to end, then kill it; `go` returns then."""
        if not self._stop.done():
            self._stop.set_result(reason)

    async def _follow(self, child: ChildProcess) -> CommandEnding:
        spec = self._spec
        either: list[asyncio.Future[ExitStatus] | asyncio.Future[str]] = [child.exited, self._stop]
        await asyncio.wait(either, timeout=spec.timeout, return_when=asyncio.FIRST_COMPLETED)
        if child.exited.done():
            return _ending(child.exited.result())
        if self._stop.done():
            reason, outcome, exit_code = self._stop.result(), Outcome.CANCELLED, 143
        else:
            reason = f"the command was stopped after its time limit of {spec.timeout:g} s"
            outcome, exit_code = Outcome.TIMEOUT, 124
        # What has left the group is found later only through its parents of now.
        await child.pin_descendants()
        child.send_signal(signal.SIGTERM, group=True)
        await asyncio.wait([child.exited], timeout=spec.grace)
        if not child.exited.done():
            exit_code = 124 if outcome is Outcome.TIMEOUT else 137
            reason += "; it did not react to SIGTERM and was killed"
        return CommandEnding(outcome, exit_code, reason)

    async def _read(self, pipe: _Pipe, stream: str) -> None:
        # Closed by hand: a reader that is cancelled must not watch a descriptor that was let go.
        async with contextlib.aclosing(pipe.read()) as pieces:
            async for data in pieces:
                self._sink.write(stream, data)
                if self._sink.backlog_bytes > _MOST_WAITING:
                    await self._sink.drained()


class _Pipe:
    """A pipe, one end of which is for a process and the other for us."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        self._readable = asyncio.Event()
        self._ends_when_empty = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of both ends."""
        if self._timer is not None:
            self._timer.cancel()
        self.close_reader()
        self.close_writer()

    def close_reader(self) -> None:
        """Let go of the reading end."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close_writer(self) -> None:
        """Let go of the writing end."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def expect_end(self, seconds: float) -> None:
        """From then on an empty pipe is at its end, whoever still has the other end of it."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_when_empty)

    def _end_when_empty(self) -> None:
        self._ends_when_empty = True
        self._readable.set()

    async def read(self) -> AsyncGenerator[bytes]:
        """What is written, piece by piece, to its end."""
        os.set_blocking(self.reader, False)
        with contextlib.suppress(OSError):
            # Fewer turns for much output; a system that allows none is no reason to fail.
            fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, _CHUNK)
        loop = asyncio.get_running_loop()
        loop.add_reader(self.reader, self._readable.set)
        try:
            while True:
                await self._readable.wait()
                try:
                    data = os.read(self.reader, _CHUNK)
                except BlockingIOError:
                    if self._ends_when_empty:
                        return
                    self._readable.clear()
                    continue
                if not data:
                    return
                yield data
                # Whoever prints without end must not keep the others from their turns.
                await asyncio.sleep(0)
        finally:
            loop.remove_reader(self.reader)

    async def write(self, data: bytes) -> None:
        """Write all of `data` and close; a process that does not want it is no error."""
        if self.writer < 0:
            return
        loop = asyncio.get_running_loop()
        os.set_blocking(self.writer, False)
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self.writer, view[:_CHUNK]) :]
                except BlockingIOError:
                    await _until_writable(loop, self.writer)
        except BrokenPipeError:
            pass
        finally:
            self.close_writer()


async def _until_writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    writable = asyncio.Event()
    loop.add_writer(descriptor, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(descriptor)


def _ending(status: ExitStatus) -> CommandEnding:
    if status.signal is not None:
        reason = f"the command was ended by {status.describe()}"
        outcome = Outcome.CANCELLED if status.signal in ENDING_SIGNALS else Outcome.ERROR
        return CommandEnding(outcome, 128 + status.signal, reason)
    code = status.code or 0
    return CommandEnding(Outcome.OK if code == 0 else Outcome.ERROR, code)
