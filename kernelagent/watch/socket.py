"""A WebSocket on which a path is watched."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.concurrency import race
from kernelagent.errors import ApiError, InvalidJson, InvalidRequest, ServiceClosing
from kernelagent.files.fs import names
from kernelagent.text import utc_timestamp
from kernelagent.watch.changes import Ending, Event, Overflow
from kernelagent.watch.service import Message, Watch, WatchService
from kernelagent.watch.streams import PIECE
from kernelagent.web.sockets import PACE, PacedSocket

# The libraries of the published Python clients lose no messages that arrive together.
_UNHURT = "Python/"


class WatchSocket:
    """One WebSocket on which one path is watched: the first message says which.

    Only `change` messages are sent: published clients hand every message to their user's code as
    one. So changes that were lost are told as a `modified` of what is watched. The end is a close:
    1000 if the path is gone, 1008 with a code and a sentence if it cannot be watched.
    """

    def __init__(self, websocket: WebSocket, service: WatchService) -> None:
        is_unhurt = websocket.headers.get("user-agent", "").startswith(_UNHURT)
        self._socket = PacedSocket(websocket, 0.0 if is_unhurt else PACE)
        self._service = service

    async def serve(self) -> None:
        """Accept the connection and work until the client leaves or there is nothing to watch."""
        with contextlib.suppress(WebSocketDisconnect):
            await self._socket.accept()
            try:
                path = self._path(await self._socket.receive())
                await race(self._until_left(), self._send_all(path))
                await self._socket.close(1000, "the path is gone")
            except ApiError as error:
                code = 1011 if error.status >= 500 else 1008
                await self._socket.close(code, f"{error.code}: {error.message}")

    async def _until_left(self) -> None:
        while True:
            message = _parsed(await self._socket.receive())
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
            while (found := await watch.messages(PIECE)) is not None:
                for message in _changes(watch, found):
                    await self._socket.send(message)
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
