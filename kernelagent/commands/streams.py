"""A command as a stream of messages or frames, and these as an answer over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.types import Receive, Scope, Send

from kernelagent.commands.command import CommandEnding
from kernelagent.commands.models import RunRequest
from kernelagent.commands.output import PassedOutput
from kernelagent.commands.service import CommandService, RunningCommand, facts
from kernelagent.concurrency import CLIENT_LEFT
from kernelagent.errors import ApiError
from kernelagent.text import pieces, utc_timestamp
from kernelagent.web.json import dump_json
from kernelagent.web.streaming import (
    Message,
    Piece,
    StreamResponse,
    complete,
    dump,
    refusal,
)

# Exact bytes at little cost. A frame is its type in one byte, three of zero, the length of what
# follows in four (big endian), and that: the layout of Docker's streams, with a type for results.
FRAMES = "application/vnd.kernelagent.frames"
_FRAME = struct.Struct(">BxxxI")
# Above, one more packet costs less than to copy the data.
_LARGE = 64 * 1024
_FRAME_TYPES = {"stdout": 1, "stderr": 2, "result": 4}

# Published clients end a stream at a message of 1 MiB.
_LONGEST_LINE = 2**20 - 1
# What a byte of output can take in a message: six as an escape, and four thirds as base64.
_BYTES_PER_BYTE = 8


@contextlib.asynccontextmanager
async def _under_way(
    service: CommandService, running: RunningCommand, output: PassedOutput
) -> AsyncIterator[asyncio.Task[CommandEnding]]:
    """The command as a task, which has ended when the context is left."""
    work = asyncio.create_task(service.go(running), name=running.id)
    work.add_done_callback(lambda _: output.close())
    try:
        yield work
    finally:
        running.command.stop(CLIENT_LEFT)
        output.abandon()
        await asyncio.shield(asyncio.wait([work]))


async def stream_messages(
    service: CommandService, running: RunningCommand, output: PassedOutput
) -> AsyncGenerator[Message]:
    """All messages of a command, `complete` last whatever happens; closed early, it is ended."""
    async with _under_way(service, running, output) as work:
        yield {"type": "started", "command_id": running.id, "timestamp": utc_timestamp()}
        while taken := await output.next():
            for stream, data in taken:
                yield _text(stream, data)
        try:
            ending = await asyncio.shield(work)
        except ApiError as error:
            yield refusal(error)
            yield complete(False)
            return
        if ending.message:
            yield _text("stderr", f"{ending.message}\n".encode())
        yield _result(running, ending, output)
        yield complete(ending.exit_code == 0)


async def stream_frames(
    service: CommandService, running: RunningCommand, output: PassedOutput
) -> AsyncGenerator[Piece]:
    """What a command prints exactly as it is, in frames; the last one has the result as JSON."""
    async with _under_way(service, running, output) as work:
        while taken := await output.next():
            for stream, data in taken:
                head = _FRAME.pack(_FRAME_TYPES[stream], len(data))
                yield (head, data) if len(data) > _LARGE else head + data
        try:
            ending = await asyncio.shield(work)
        except ApiError as error:
            content = dump_json(refusal(error))
        else:
            content = dump_json(_result(running, ending, output))
        yield _FRAME.pack(_FRAME_TYPES["result"], len(content)) + content


def _result(running: RunningCommand, ending: CommandEnding, output: PassedOutput) -> Message:
    totals = {f"{name}_bytes": size for name, size in output.totals.items()}
    return {"type": "result", **facts(running, ending), **totals}


def _text(stream: str, data: bytes) -> Message:
    message = {"type": stream, "timestamp": utc_timestamp()}
    try:
        return {**message, "data": data.decode()}
    except UnicodeDecodeError:
        exact = base64.b64encode(data).decode()
        return {**message, "data": data.decode("utf-8", "replace"), "data_base64": exact}


class StreamedCommand(StreamResponse):
    """A response: one command, as it happens. A client that leaves ends it."""

    def __init__(
        self, service: CommandService, request: RunRequest, media_type: str, keepalive: float
    ) -> None:
        super().__init__(media_type, keepalive)
        self._service = service
        self._request = request
        self._framed = media_type == FRAMES

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        output = PassedOutput()
        # Raises what is wrong with it before the headers are out.
        running = await self._service.prepare(self._request, output)
        try:
            if self._framed:
                pieces = stream_frames(self._service, running, output)
            else:
                pieces = self._lines(running, output)
            await self.send_pieces(pieces, receive, send)
        finally:
            self._service.give_up(running)

    def silence(self) -> bytes:
        """What is sent when there is nothing to be sent."""
        return _FRAME.pack(_FRAME_TYPES["stdout"], 0) if self._framed else super().silence()

    async def _lines(self, running: RunningCommand, output: PassedOutput) -> AsyncGenerator[bytes]:
        messages = stream_messages(self._service, running, output)
        async with contextlib.aclosing(messages):
            async for message in messages:
                line = self.encode(message)
                if len(line) <= _LONGEST_LINE:
                    yield line
                    continue
                for part in parts_of(message, _LONGEST_LINE):
                    yield self.encode(part)


def parts_of(message: Message, longest: int) -> list[Message]:
    """A message as several of which each line of output has at most `longest` bytes."""
    data = message.get("data")
    if message["type"] not in ("stdout", "stderr") or len(dump(message)) <= longest:
        return [message]
    exact = message.get("data_base64")
    raw = base64.b64decode(exact) if exact is not None else str(data).encode()
    return [_text(message["type"], piece) for piece in pieces(raw, longest // _BYTES_PER_BYTE)]
