"""`kernelagent logs`: what a job has printed and prints, byte for byte."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
import stat
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernelagent.cli.connection import (
    DEFAULT_URL,
    CommandFailed,
    Token,
    Url,
    complete,
    own_token,
)
from kernelagent.concurrency import race

if TYPE_CHECKING:
    from kernelagent.client import AsyncClient, Message

_STDOUT, _STDERR = 1, 2
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class Stream(StrEnum):
    """What a job writes to."""

    STDOUT = "stdout"
    STDERR = "stderr"


def logs(
    job: Annotated[str, typer.Argument(metavar="ID", help="Id of the job, or its beginning.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on to the end of the job.")
    ] = False,
    stream: Annotated[
        Stream | None, typer.Option(help="Only this one.", show_default="both")
    ] = None,
    offset: Annotated[
        int | None,
        typer.Option(min=0, help="Begin after so many bytes.", show_default="the beginning"),
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="BYTES",
            help="Begin so many bytes before the present end; both streams count.",
            show_default="everything",
        ),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Begin each line with its time.")
    ] = False,
    retry: Annotated[
        float,
        typer.Option(min=0, help="Seconds for which a server that is lost is asked again."),
    ] = 300.0,
) -> None:
    """Print what a job has printed: its stdout to stdout, its stderr to stderr, unchanged.

    With --follow, what it prints from now on too; the exit code is that of the job then. A lost
    connection is taken up again where it broke. Ctrl-C leaves the job alone.
    """
    if offset is not None and tail is not None:
        raise typer.BadParameter("give --offset or --tail, not both")
    options = _Options(
        follow=follow, stream=stream, offset=offset, tail=tail, timestamps=timestamps, retry=retry
    )
    complete(_logs(url, token or own_token(url), job, options))


@dataclass(frozen=True, slots=True)
class _Options:
    follow: bool
    stream: Stream | None
    offset: int | None
    tail: int | None
    timestamps: bool
    retry: float


class LogWriter:
    """Writes messages of a log to this process's stdout and stderr.

    Past Python's own buffers, which would write again to a pipe that is closed.
    """

    def __init__(self, *, timestamps: bool = False) -> None:
        self._timestamps = timestamps
        self._at_line_start = {_STDOUT: True, _STDERR: True}
        self._told = b""

    def show(self, message: Message) -> None:
        """Write a piece of the log, or say how much is missing."""
        if message["type"] == "gap":
            self.note(f"{message['bytes']} bytes are missing here: {message['message']}")
            return
        exact = message.get("data_base64")
        data = message["data"].encode() if exact is None else base64.b64decode(exact)
        descriptor = _STDOUT if message["stream"] == "stdout" else _STDERR
        if descriptor == _STDERR:
            self._told = (self._told + data)[-4096:]
        if self._timestamps:
            data = self._stamped(data, descriptor, f"{message['timestamp']} ".encode())
        self._write(descriptor, data)

    def note(self, text: str) -> None:
        """Say something of our own, on a line of its own."""
        together = os.isatty(_STDOUT) and os.isatty(_STDERR)
        places = (_STDOUT, _STDERR) if together else (_STDERR,)
        start = b"" if all(self._at_line_start[place] for place in places) else b"\n"
        self._write(_STDERR, start + f"kernelagent: {text}\n".encode(errors="replace"))
        if together:
            self._at_line_start[_STDOUT] = True

    def end(self, message: Message) -> None:
        """Say why the job ended, unless that stands at the end of its stderr."""
        reason = message["message"]
        if reason and not self._told.rstrip().endswith(reason.encode()):
            became = "was killed" if message["status"] == "killed" else f"has {message['status']}"
            self.note(f"the job {became}: {reason}")

    def _stamped(self, data: bytes, descriptor: int, stamp: bytes) -> bytes:
        at_line_start = self._at_line_start[descriptor]
        return b"".join(
            stamp + line if number or at_line_start else line
            for number, line in enumerate(_LINE.findall(data))
        )

    def _write(self, descriptor: int, data: bytes) -> None:
        if data:
            self._at_line_start[descriptor] = data.endswith(b"\n")
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


async def _logs(url: str, token: str | None, text: str, options: _Options) -> int:
    from kernelagent.cli.selection import find_job
    from kernelagent.client import AsyncClient

    async with AsyncClient(url, token=token) as client:
        job = await client.job(await find_job(client, text))
        writer = LogWriter(timestamps=options.timestamps)
        try:
            return await _until_closed(_show(client, job, options, writer))
        except BrokenPipeError:
            # Whoever read has seen enough.
            return 128 + signal.SIGPIPE
        except asyncio.CancelledError:
            if options.follow:
                with contextlib.suppress(BrokenPipeError):
                    writer.note(f"the job goes on; end it with: kernelagent kill {job['id']}")
            raise


async def _until_closed(work: Coroutine[Any, Any, int]) -> int:
    """Do `work`; raises BrokenPipeError when nobody reads stdout any more, even if it is silent."""
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    is_pipe = stat.S_ISFIFO(os.fstat(_STDOUT).st_mode)
    if is_pipe:
        # There is nothing to be read at this end: it only ever tells of an error.
        loop.add_reader(_STDOUT, closed.set)
    try:
        task, _ = await race(work, closed.wait())
        if task.cancelled():
            raise BrokenPipeError
        return int(task.result())
    finally:
        if is_pipe:
            loop.remove_reader(_STDOUT)


async def _show(
    client: AsyncClient, job: dict[str, Any], options: _Options, writer: LogWriter
) -> int:
    from kernelagent.cli.follower import LogFollower
    from kernelagent.client import ServiceError

    present_end = job["log"]["bytes"]
    offset = options.offset or 0
    if options.tail is not None:
        offset = max(present_end - options.tail, 0)
    follower = LogFollower(
        client,
        job["id"],
        offset=offset,
        stream=None if options.stream is None else options.stream.value,
        follow=options.follow,
        retry=options.retry,
        on_loss=lambda error: writer.note(f"{error}; it is taken up again"),
    )
    try:
        async with contextlib.aclosing(follower.messages()) as messages:
            async for message in messages:
                if message["type"] == "end":
                    if options.follow:
                        writer.end(message)
                        return _exit_code(message)
                    break
                writer.show(message)
                if not options.follow and message["next_offset"] >= present_end:
                    # A job that prints fast would never be done otherwise.
                    break
    except ServiceError as error:
        if error.code == "PROCESS_NOT_FOUND":
            raise CommandFailed(f"the job is gone: {job['id']}") from error
        raise
    return 0


def _exit_code(end: Message) -> int:
    """The job's own, if a process can have it; never 0 for a job that has not completed."""
    code = int(end["exit_code"])
    return code if end["status"] == "completed" or 0 < code < 256 else 1
