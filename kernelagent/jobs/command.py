"""A job that runs a command: a process group of its own, its output in the job's log."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from kernelagent.jobs.job import JobEnding, JobRequest
from kernelagent.jobs.log import JobLog
from kernelagent.jupyter.run import Outcome
from kernelagent.process import ChildProcess, ExitStatus

_CHUNK = 64 * 1024
# Output on its way to the disk beyond which the command has to wait with more.
_MOST_WAITING = 2**20
# What people end processes with; other signals tell of a fault.
ENDING_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})
# Whoever could still write has been killed by then.
_LAST_WORDS = 5.0


class CommandWork:
    """One job's command: `go` once, `stop` at any time."""

    def __init__(
        self,
        request: JobRequest,
        log: JobLog,
        *,
        env: Mapping[str, str],
        cwd: Path,
        marker: str,
        grace: float,
    ) -> None:
        self._request = request
        self._log = log
        self._env = env
        self._cwd = cwd
        self._marker = marker
        self._grace = grace
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def go(self, on_start: Callable[[int], None]) -> JobEnding:
        """Run the command to its end, and end what it has started with it.

        `on_start` gets its process id.
        """
        with _Pipe() as stdout, _Pipe() as stderr:
            try:
                child = ChildProcess.start(
                    _vector(self._request),
                    env=self._env,
                    cwd=self._cwd,
                    marker=self._marker,
                    stdout=stdout.writer,
                    stderr=stderr.writer,
                )
            except OSError as error:
                return self._not_started(error)
            finally:
                stdout.close_writer()
                stderr.close_writer()
            readers = [
                asyncio.create_task(self._read(pipe, name))
                for pipe, name in ((stdout, "stdout"), (stderr, "stderr"))
            ]
            try:
                on_start(child.pid)
                ending = await self._follow(child)
            finally:
                try:
                    await asyncio.shield(child.kill())
                finally:
                    await asyncio.wait(readers, timeout=_LAST_WORDS)
                    for reader in readers:
                        reader.cancel()
                    await asyncio.gather(*readers, return_exceptions=True)
        return replace(ending, usage=child.usage)

    def stop(self, reason: str) -> None:
        """Ask the command to end, then kill it; `go` returns then."""
        if not self._stop.done():
            self._stop.set_result(reason)

    async def _follow(self, child: ChildProcess) -> JobEnding:
        timeout = self._request.timeout
        either: list[asyncio.Future[ExitStatus] | asyncio.Future[str]] = [child.exited, self._stop]
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if child.exited.done():
            return _ending(child.exited.result())
        if self._stop.done():
            reason, outcome, exit_code = self._stop.result(), Outcome.CANCELLED, 143
        else:
            reason = f"the command was stopped after its time limit of {timeout:g} s"
            outcome, exit_code = Outcome.TIMEOUT, 124
        # What has left the group is found later only through its parents of now.
        await child.pin_descendants()
        child.send_signal(signal.SIGTERM, group=True)
        await asyncio.wait([child.exited], timeout=self._grace)
        if not child.exited.done():
            exit_code = 124 if outcome is Outcome.TIMEOUT else 137
            reason += "; it did not react to SIGTERM and was killed"
        self._log.write("stderr", f"{reason}\n".encode())
        return JobEnding(outcome, exit_code, reason)

    async def _read(self, pipe: _Pipe, stream: str) -> None:
        async for data in pipe.read():
            self._log.write(stream, data)
            if self._log.backlog_bytes > _MOST_WAITING:
                await self._log.drained()

    def _not_started(self, error: OSError) -> JobEnding:
        name = _vector(self._request)[0]
        missing = isinstance(error, FileNotFoundError)
        reason = f"{name} could not be started: {error.strerror or error}"
        self._log.write("stderr", f"{reason}\n".encode())
        return JobEnding(Outcome.ERROR, 127 if missing else 126, reason)


class _Pipe:
    """A pipe whose writing end is for a process, and whose reading end is read here."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writer()
        if self.reader >= 0:
            os.close(self.reader)

    def close_writer(self) -> None:
        """Let go of the writing end, which the process has by now."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    async def read(self) -> AsyncIterator[bytes]:
        """What is written, piece by piece, to its end."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_CHUNK)
        file = os.fdopen(self.reader, "rb", buffering=0)
        self.reader = -1
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        try:
            while data := await reader.read(_CHUNK):
                yield data
        finally:
            transport.close()


def _vector(request: JobRequest) -> list[str]:
    if request.args is not None:
        return [request.command, *request.args]
    return [shutil.which("bash") or "/bin/sh", "-c", request.command]


def _ending(status: ExitStatus) -> JobEnding:
    if status.signal is not None:
        reason = f"the command was ended by {status.describe()}"
        outcome = Outcome.CANCELLED if status.signal in ENDING_SIGNALS else Outcome.ERROR
        return JobEnding(outcome, 128 + status.signal, reason)
    code = status.code or 0
    return JobEnding(Outcome.OK if code == 0 else Outcome.ERROR, code)
