"""A watch as a stream: server-sent events and NDJSON over HTTP, messages over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.errors import ApiError, InvalidJson, InvalidRequest, ServiceClosing
from kernelagent.files.fs import names
from kernelagent.text import utc_timestamp
from kernelagent.watch.changes import Ending, Event, Overflow
from kernelagent.watch.service import Message, Watch, WatchService
from kernelagent.web.streaming import StreamResponse, dump, refusal

# Changes that are sent in one piece.
_PIECE = 256
# A published client loses messages that arrive in one read with another: at least 5 ms between two.
_PACE = 0.006
# The libraries of the published Python clients lose none.
_UNHURT = "Python/"
_LONGEST_REASON = 123


async def stream_messages(watch: Watch, *, is_again: bool) -> AsyncGenerator[list[Message]]:
    """All messages of a watch in pieces, `end` or `error` last; they are numbered by `id`."""
    number = 0

    def numbered(messages: list[Message]) -> list[Message]:
        nonlocal number
        for message in messages:
            number += 1
            message["id"] = number
        return messages

    yield numbered([_started(watch)])
    if is_again:
        yield numbered([_overflow(watch, 0, "the connection was lost: changes may be missing")])
    while (found := await watch.messages(_PIECE)) is not None:
        if isinstance(found, Overflow):
            sentence = "more changes than could be kept: list the files again"
            found = [_overflow(watch, found.lost, sentence)]
        yield numbered(found)
    if isinstance(watch.ending, ApiError):
        yield numbered([refusal(watch.ending)])
    reason = watch.ending.value if isinstance(watch.ending, Ending) else "error"
    yield numbered([{"type": "end", "reason": reason, "timestamp": utc_timestamp()}])


def _started(watch: Watch) -> Message:
    return {
        "type": "started",
        "watch_id": watch.facts.id,
        "path": names.shown(watch.facts.path),
        "is_directory": watch.is_directory,
        "timestamp": utc_timestamp(),
    }


def _overflow(watch: Watch, lost: int, sentence: str) -> Message:
    return {
        "type": "overflow",
        "path": names.shown(watch.facts.path),
        "lost": lost,
        "message": sentence,
        "timestamp": utc_timestamp(),
    }


class StreamedWatch(StreamResponse):
    """A response: the changes beneath a path until the client leaves or the path is gone."""

    def __init__(
        self, service: WatchService, path: str | None, media_type: str, *, is_again: bool
    ) -> None:
        super().__init__(media_type, service.settings.keepalive)
        self._service = service
        self._path = service.default_path if path is None else path
        self._is_again = is_again

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        # Raises what is wrong with the path before the headers are out.
        async with self._service.watch(self._path) as watch:
            await self.send_pieces(self._pieces(watch), receive, send)

    def event_id(self, message: Message) -> str | None:
        """The message's number."""
        return str(message["id"])

    async def _pieces(self, watch: Watch) -> AsyncGenerator[bytes]:
        messages = stream_messages(watch, is_again=self._is_again)
        async with contextlib.aclosing(messages):
            async for several in messages:
                yield b"".join(map(self.encode, several))


class WatchSocket:
    """One WebSocket on which one path is watched: the first message says which.

    Only `change` messages are sent: published clients hand every message to their user's code as
    one. So changes that were lost are told as a `modified` of what is watched. The end is a close:
    1000 if the path is gone, 1008 with a code and a sentence if it cannot be watched.
    """

    def __init__(self, websocket: WebSocket, service: WatchService) -> None:
        self._websocket = websocket
        self._service = service
        is_unhurt = websocket.headers.get("user-agent", "").startswith(_UNHURT)
        self._pace = 0.0 if is_unhurt else _PACE

    async def serve(self) -> None:
        """Accept the connection and work until the client leaves or there is nothing to watch."""
        await self._websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            try:
                await self._serve(self._path(await self._receive()))
                await self._websocket.close(1000, "the path is gone")
            except ApiError as error:
                code = 1011 if error.status >= 500 else 1008
                await self._websocket.close(code, _reason(error))

    async def _serve(self, path: str) -> None:
        leaving = asyncio.create_task(self._until_left())
        sending = asyncio.create_task(self._send_all(path))
        try:
            await asyncio.wait((leaving, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, sending):
                task.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)
        for task in (leaving, sending):
            if not task.cancelled():
                task.result()

    async def _receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        text: str | bytes = message.get("text") or message.get("bytes") or ""
        return text

    async def _until_left(self) -> None:
        while True:
            message = _parsed(await self._receive())
            if isinstance(message, dict) and message.get("action") == "watch":
                raise InvalidRequest("one path is watched on a connection; open another one")

    def _path(self, text: str | bytes) -> str:
        message = _parsed(text)
        if not isinstance(message, dict):
            raise InvalidJson("a message is a JSON object")
        if message.get("action", "watch") != "watch":
            raise InvalidRequest("the only action is watch")
        path = message.get("path")
        if path is None:
            return self._service.default_path
        if not isinstance(path, str):
            raise InvalidRequest("path: must be a string")
        return names.real(path)

    async def _send_all(self, path: str) -> None:
        async with self._service.watch(path) as watch:
            try:
                while (found := await watch.messages(_PIECE)) is not None:
                    for message in _changes(watch, found):
                        await self._websocket.send_text(dump(message))
                        if self._pace:
                            await asyncio.sleep(self._pace)
            except (RuntimeError, OSError):
                # The client has left, and we have not read that yet.
                raise WebSocketDisconnect from None
            if isinstance(watch.ending, ApiError):
                raise watch.ending
            if watch.ending is Ending.CLOSING:
                raise ServiceClosing("the service is shutting down")


def _changes(watch: Watch, found: list[Message] | Overflow) -> list[Message]:
    if not isinstance(found, Overflow):
        return found
    return [
        {
            "type": "change",
            "path": names.shown(watch.facts.path),
            "event": Event.MODIFIED.value,
            "is_directory": watch.is_directory,
            "timestamp": utc_timestamp(),
        }
    ]


def _parsed(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _reason(error: ApiError) -> str:
    """What fits into the frame that closes a WebSocket."""
    return f"{error.code}: {error.message}".encode()[:_LONGEST_REASON].decode(errors="ignore")
