"""A command as a stream: NDJSON and server-sent events over HTTP, messages over a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator

from pydantic import ValidationError
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.commands.command import CommandEnding
from kernelagent.commands.models import RunRequest
from kernelagent.commands.output import PassedOutput
from kernelagent.commands.service import CLIENT_LEFT, CommandService, RunningCommand, facts
from kernelagent.errors import ApiError, InternalError, InvalidJson
from kernelagent.text import pieces, utc_timestamp
from kernelagent.web.errors import validation_error
from kernelagent.web.json import dump_json
from kernelagent.web.streaming import Message, Piece, StreamResponse, complete, dump, refusal

# Exact bytes at little cost. A frame is its type in one byte, three of zero, the length of what
# follows in four (big endian), and that: the layout of Docker's streams, with a type for results.
FRAMES = "application/vnd.kernelagent.frames"
_FRAME = struct.Struct(">BxxxI")
# Above, one more packet costs less than to copy the data.
_LARGE = 64 * 1024
_FRAME_TYPES = {"stdout": 1, "stderr": 2, "result": 4}

# A published client loses messages that arrive in one read with another: at least 5 ms between two.
_PACE = 0.006
# Published clients end a stream at a message of 1 MiB, some a WebSocket at 64 KiB of text.
_LONGEST_LINE = 2**20 - 1
_LONGEST_TEXT = 48 * 1024
# What a byte of output can take in a message: six as an escape, and four thirds as base64.
_BYTES_PER_BYTE = 8
# Commands that may wait on one WebSocket behind the one that runs.
_SOCKET_BACKLOG = 100
_ON_REQUEST = "the command was ended on request"


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
                for part in _parts(message, _LONGEST_LINE):
                    yield self.encode(part)


class CommandSocket:
    """One WebSocket on which commands are asked for, one after the other.

    Client messages: the fields of POST /commands/run with any `type`; `interrupt` ends the one that
    runs. Each command ends with `complete`. A client that leaves ends its command.
    """

    def __init__(self, websocket: WebSocket, service: CommandService) -> None:
        self._websocket = websocket
        self._service = service
        self._backlog: asyncio.Queue[Message | ApiError] = asyncio.Queue(_SOCKET_BACKLOG)
        self._running: RunningCommand | None = None
        # Commands that were asked for and have not begun, and whether the next is not to.
        self._pending = 0
        self._interrupting = False
        self._sent_at = 0.0

    async def serve(self) -> None:
        """Accept the connection and work until the client leaves."""
        await self._websocket.accept()
        worker = asyncio.create_task(self._work())
        full = False
        try:
            while not worker.done():
                event = await self._websocket.receive()
                if event["type"] == "websocket.disconnect":
                    break
                self._take(event.get("text") or event.get("bytes") or "")
        except asyncio.QueueFull:
            full = True
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        if full:
            await self._websocket.close(1008, "too many commands wait")

    def _take(self, text: str | bytes) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._backlog.put_nowait(InvalidJson("a message is a JSON object"))
        elif message.get("type") in ("interrupt", "kill"):
            if self._running is not None:
                self._running.command.stop(_ON_REQUEST)
            else:
                self._interrupting = self._pending > 0
        else:
            self._backlog.put_nowait(message)
            self._pending += 1

    async def _work(self) -> None:
        while True:
            wanted = await self._backlog.get()
            try:
                if isinstance(wanted, ApiError):
                    raise wanted
                try:
                    await self._run(_checked(wanted))
                finally:
                    self._pending -= 1
                    self._interrupting = False
            except ApiError as error:
                await self._send(refusal(error))
                await self._send(complete(False))
            except WebSocketDisconnect:
                return

    async def _run(self, request: RunRequest) -> None:
        output = PassedOutput()
        running = await self._prepare(request, output)
        try:
            self._running = running
            if self._interrupting:
                running.command.stop(_ON_REQUEST)
            messages = stream_messages(self._service, running, output)
            async with contextlib.aclosing(messages):
                async for message in messages:
                    for part in _parts(message, _LONGEST_TEXT):
                        await self._send(part)
        except ApiError:
            raise
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise WebSocketDisconnect from None
        except Exception as error:
            raise InternalError("the command failed inside the service") from error
        finally:
            self._running = None
            self._service.give_up(running)

    async def _prepare(self, request: RunRequest, output: PassedOutput) -> RunningCommand:
        try:
            return await self._service.prepare(request, output)
        except ApiError:
            raise
        except Exception as error:
            # The client must hear of it, whatever it is.
            raise InternalError("the command failed inside the service") from error

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(max(self._sent_at + _PACE - time.monotonic(), 0))
        await self._websocket.send_text(dump(message))
        self._sent_at = time.monotonic()


def _checked(message: Message) -> RunRequest:
    try:
        return RunRequest.model_validate(message)
    except ValidationError as error:
        raise validation_error(
            [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        ) from None


def _parts(message: Message, longest: int) -> list[Message]:
    """A message as several of which each line of output has at most `longest` bytes."""
    data = message.get("data")
    if message["type"] not in ("stdout", "stderr") or len(dump(message)) <= longest:
        return [message]
    exact = message.get("data_base64")
    raw = base64.b64decode(exact) if exact is not None else str(data).encode()
    return [_text(message["type"], piece) for piece in pieces(raw, longest // _BYTES_PER_BYTE)]
