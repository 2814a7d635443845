"""Answers that are sent piece by piece: what streams of runs, commands and logs share."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Send

from kernelagent.concurrency import race
from kernelagent.errors import ApiError
from kernelagent.text import utc_timestamp

NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"

Message = dict[str, Any]
# Some bytes, or several that nothing may come between: to join large ones is to copy them.
Piece = bytes | tuple[bytes, ...]

# The status that web servers log for a client that left; nobody receives it.
CLIENT_CLOSED_REQUEST = 499

# From here on it pays to look for a quicker way.
_LONG = 4096


def wanted_stream(accept: str) -> str | None:
    """The streaming media type that an Accept header asks for, if it does."""
    for media_type in accept.split(","):
        name = media_type.partition(";")[0].strip().lower()
        if name in (NDJSON, EVENT_STREAM):
            return name
    return None


async def until_disconnect(receive: Receive) -> None:
    """Wait until the client of this request is gone; its body must have been read.

    Done here and not by the framework, whose behaviour depends on what the server announces.
    """
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do `work`, which is cancelled if the client leaves."""
    await race(work, until_disconnect(receive))


def dump(message: Message) -> str:
    """One line of ASCII: some clients split lines at every character that Unicode calls an end."""
    data = message.get("data")
    if isinstance(data, str) and len(data) > _LONG and data.isascii():
        # Several times as quick, and the same.
        line = orjson.dumps(message)
        if line.isascii():
            return line.decode()
    return json.dumps(message, ensure_ascii=True, separators=(",", ":"))


def refusal(error: ApiError) -> Message:
    """The message for a run that was not begun."""
    return {
        "type": "error",
        "error": error.message,
        "message": error.message,
        "code": error.code,
        "details": error.details,
        "timestamp": utc_timestamp(),
    }


def complete(success: bool) -> Message:
    """The last message of every run."""
    return {"type": "complete", "success": success, "timestamp": utc_timestamp()}


class StreamResponse(Response):
    """A response in pieces, with a keepalive after each pause of `keepalive` seconds.

    A subclass makes its pieces and passes them to `send_pieces`.
    """

    def __init__(self, media_type: str, keepalive: float) -> None:
        # Proxies must not collect the stream.
        super().__init__(media_type=media_type, headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._type = media_type
        self._keepalive = keepalive

    async def send_pieces(
        self, pieces: AsyncGenerator[Piece], receive: Receive, send: Send
    ) -> None:
        """Send the headers and all pieces; they are closed at their end, or once the client left.

        The headers go out before the first piece is asked for.
        """
        await while_connected(self._send_all(pieces, send), receive)

    def encode(self, message: Message) -> bytes:
        """One message of a stream of messages."""
        line = dump(message)
        if self._type == NDJSON:
            return f"{line}\n".encode()
        if message["type"] == "keepalive":
            return b": keepalive\n\n"
        event_id = self.event_id(message)
        number = "" if event_id is None else f"id: {event_id}\n"
        return f"{number}event: {message['type']}\ndata: {line}\n\n".encode()

    def event_id(self, _: Message) -> str | None:
        """What a browser sends back as Last-Event-ID, where a stream can be taken up again."""
        return None

    def silence(self) -> bytes:
        """What is sent when there is nothing to be sent."""
        return self.encode({"type": "keepalive"})

    async def _send_all(self, pieces: AsyncGenerator[Piece], send: Send) -> None:
        async with contextlib.aclosing(pieces):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            upcoming = asyncio.ensure_future(anext(pieces, None))
            try:
                while True:
                    await asyncio.wait((upcoming,), timeout=self._keepalive)
                    if not upcoming.done():
                        await _send_body(send, self.silence())
                        continue
                    piece = upcoming.result()
                    if piece is None:
                        break
                    for part in (piece,) if isinstance(piece, bytes) else piece:
                        await _send_body(send, part)
                    upcoming = asyncio.ensure_future(anext(pieces, None))
            finally:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
