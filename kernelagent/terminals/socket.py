"""A client at a terminal, over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.concurrency import race
from kernelagent.errors import ApiError, InvalidJson
from kernelagent.terminals.models import CLIENT_MESSAGE, SIGNALS, Input, Resize
from kernelagent.terminals.terminal import Terminal, View
from kernelagent.text import incomplete
from kernelagent.web.errors import invalid_body
from kernelagent.web.sockets import PACE, PacedSocket
from kernelagent.web.streaming import Message, dump, refusal

TAKEN_OVER = 4001

# A published client counts messages and stops at a thousand: what comes while one waits is sent as
# one.
_WINDOW = 0.02
_SMALL = 1024
# Some clients take no message of 64 KiB, and a byte can take six in JSON.
_LONGEST_TEXT = 56 * 1024
_LONGEST_MESSAGE = 63 * 1024
_LONGEST_FRAME = 64 * 1024
# How long a client that has lost its terminal may take to hear of it.
_LAST_WORDS = 1.0


class TerminalSocket:
    """One WebSocket at one terminal, until either ends.

    Client messages: `input`, `resize`, `signal`; a binary frame is input as well. The terminal's
    output goes out as `output`, or with `binary` as binary frames of its very bytes; then `exit`.
    With `named`, messages carry offsets and another client may take over.
    """

    def __init__(
        self,
        websocket: WebSocket,
        terminal: Terminal,
        view: View,
        *,
        named: bool,
        binary: bool,
    ) -> None:
        self._socket = PacedSocket(websocket, 0.0 if named or binary else PACE)
        self._terminal = terminal
        self._view = view
        self._named = named
        self._binary = binary

    async def serve(self) -> None:
        """Pass everything on until the client leaves, the terminal ends, or another takes over."""
        with contextlib.suppress(WebSocketDisconnect):
            _, sending, _ = await race(self._receive(), self._send_all(), self._view.lost.wait())
            if self._view.lost.is_set():
                await self._tell_of_loss()
            elif not sending.cancelled():
                await asyncio.sleep(self._socket.pace)
                await self._socket.close(1000)

    async def greet(self, asked: int | None) -> None:
        """Tell where the output begins that follows; `asked` is the offset that was wished."""
        terminal = self._terminal
        cols, rows = terminal.size
        await self._socket.send(
            {
                "type": "attached",
                "offset": self._view.position,
                "oldest_offset": terminal.output.start,
                "end_offset": terminal.output.end,
                "pid": terminal.pid,
                "cols": cols,
                "rows": rows,
            }
        )
        if asked is not None and asked < self._view.position:
            await self._send_skipped(self._view.position - asked)

    async def _receive(self) -> None:
        while True:
            data = await self._socket.receive()
            try:
                if isinstance(data, bytes):
                    await self._terminal.feed(data)
                else:
                    await self._take(data)
            except ApiError as error:
                await self._socket.send(refusal(error))

    async def _take(self, text: str) -> None:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidJson("a message is a JSON object") from None
        try:
            message = CLIENT_MESSAGE.validate_python(content)
        except ValidationError as error:
            raise invalid_body(error) from None
        if isinstance(message, Input):
            await self._terminal.feed(message.data.encode("utf-8", "replace"))
        elif isinstance(message, Resize):
            self._terminal.resize(message.cols, message.rows)
        else:
            self._terminal.signal(SIGNALS[message.signal])

    async def _send_all(self) -> None:
        view = self._view
        # Bytes at the end that begin a character which is not complete.
        held = 0
        while True:
            await view.more_than(held)
            await self._collect()
            if skipped := view.catch_up():
                held = 0
                await self._send_skipped(skipped)
            data = view.peek(_LONGEST_FRAME if self._binary else _LONGEST_TEXT)
            if not self._binary:
                held = incomplete(data)
                if len(data) == held and not view.ended:
                    continue
                data = data[: len(data) - held] or data
            if not data:
                break
            view.advance(await self._send_output(data))
        await self._socket.send({"type": "exit", "code": self._terminal.exit_code, "data": ""})

    async def _collect(self) -> None:
        """Wait a little for more if something was sent just now."""
        if not self._socket.pace:
            return
        view = self._view
        due = self._socket.sent_at + _WINDOW
        while not view.ended and len(view.peek(_SMALL)) < _SMALL:
            left = due - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, self._socket.pace))

    async def _send_output(self, data: bytes) -> int:
        """Send `data`, or as much of it as fits; how much that was."""
        if self._binary:
            await self._socket.send(data)
            return len(data)
        while True:
            text = data.decode("utf-8", "replace")
            message: Message = {"type": "output", "data": text}
            if self._named:
                message["offset"] = self._view.position
                message["next_offset"] = self._view.position + len(data)
            line = dump(message)
            if len(line) <= _LONGEST_MESSAGE:
                await self._socket.send(line)
                return len(data)
            data = data[: len(data) * _LONGEST_MESSAGE // len(line) * 7 // 8]
            data = data[: len(data) - incomplete(data)]

    async def _send_skipped(self, size: int) -> None:
        await self._socket.send(
            {
                "type": "skipped",
                "bytes": size,
                "offset": self._view.position,
                "message": "this much output is left out: it is no longer kept, or the client "
                "read too slowly",
            }
        )

    async def _tell_of_loss(self) -> None:
        message = {"type": "taken_over", "message": "another client has taken this terminal over"}
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._socket.send(message)
                await self._socket.close(TAKEN_OVER, "taken over")
        except TimeoutError:
            return
