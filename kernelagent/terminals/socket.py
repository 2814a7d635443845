"""A client at a terminal, over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.errors import ApiError, InvalidJson
from kernelagent.terminals.models import CLIENT_MESSAGE, SIGNALS, Input, Resize
from kernelagent.terminals.terminal import Terminal, View
from kernelagent.text import incomplete
from kernelagent.web.errors import validation_error
from kernelagent.web.streaming import Message, dump, refusal

TAKEN_OVER = 4001

# A published client loses messages that arrive in one read with another: at least 5 ms between two.
# Another counts messages and stops at a thousand: what comes while one waits is sent as one.
PACE = 0.006
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
        self._websocket = websocket
        self._terminal = terminal
        self._view = view
        self._named = named
        self._binary = binary
        self._pace = 0.0 if named or binary else PACE
        self._sending = asyncio.Lock()
        self._sent_at = 0.0

    async def serve(self) -> None:
        """Pass everything on until the client leaves, the terminal ends, or another takes over."""
        receiving = asyncio.create_task(self._receive())
        sending = asyncio.create_task(self._send_all())
        losing = asyncio.create_task(self._view.lost.wait())
        tasks = (receiving, sending, losing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(WebSocketDisconnect):
            if self._view.lost.is_set():
                await self._tell_of_loss()
                return
            for task in (receiving, sending):
                if not task.cancelled():
                    task.result()
            if not sending.cancelled():
                await asyncio.sleep(self._pace)
                await self._close(1000, "")

    async def greet(self, asked: int | None) -> None:
        """Tell where the output begins that follows; `asked` is the offset that was wished."""
        terminal = self._terminal
        cols, rows = terminal.size
        await self._send(
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
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            try:
                data = event.get("bytes")
                if data is not None:
                    await self._terminal.feed(data)
                else:
                    await self._take(event.get("text") or "")
            except ApiError as error:
                await self._send(refusal(error))

    async def _take(self, text: str) -> None:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidJson("a message is a JSON object") from None
        try:
            message = CLIENT_MESSAGE.validate_python(content)
        except ValidationError as error:
            raise validation_error(
                [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
            ) from None
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
        await self._send({"type": "exit", "code": self._terminal.exit_code, "data": ""})

    async def _collect(self) -> None:
        """Wait a little for more if something was sent just now."""
        if not self._pace:
            return
        view = self._view
        due = self._sent_at + _WINDOW
        while not view.ended and len(view.peek(_SMALL)) < _SMALL:
            left = due - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, self._pace))

    async def _send_output(self, data: bytes) -> int:
        """Send `data`, or as much of it as fits; how much that was."""
        if self._binary:
            await self._send(data)
            return len(data)
        while True:
            text = data.decode("utf-8", "replace")
            message: Message = {"type": "output", "data": text}
            if self._named:
                message["offset"] = self._view.position
                message["next_offset"] = self._view.position + len(data)
            line = dump(message)
            if len(line) <= _LONGEST_MESSAGE:
                await self._send(line)
                return len(data)
            data = data[: len(data) * _LONGEST_MESSAGE // len(line) * 7 // 8]
            data = data[: len(data) - incomplete(data)]

    async def _send_skipped(self, size: int) -> None:
        await self._send(
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
                await self._send(message)
                await self._close(TAKEN_OVER, "taken over")
        except TimeoutError:
            return

    async def _send(self, message: Message | str | bytes) -> None:
        async with self._sending:
            if self._pace:
                await asyncio.sleep(max(self._sent_at + self._pace - time.monotonic(), 0))
            if isinstance(message, dict):
                message = dump(message)
            with _disconnects():
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    await self._websocket.send_text(message)
            self._sent_at = time.monotonic()

    async def _close(self, code: int, reason: str) -> None:
        with _disconnects():
            await self._websocket.close(code, reason)


@contextlib.contextmanager
def _disconnects() -> Iterator[None]:
    """That the client has gone, as one error: Starlette has several for it."""
    try:
        yield
    except (RuntimeError, OSError):
        raise WebSocketDisconnect from None
