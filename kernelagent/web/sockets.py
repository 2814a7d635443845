"""WebSockets as clients need them: paced, with a bounded backlog, and with interrupts in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.concurrency import race
from kernelagent.errors import ApiError, InternalError, InvalidJson
from kernelagent.web.streaming import Message, complete, dump, refusal

log = logging.getLogger(__name__)

# A published client loses messages that arrive in one read with another: at least 5 ms between two.
PACE = 0.006
# Requests that may wait behind the one that is worked on.
_BACKLOG = 100
# What fits into the frame that closes a WebSocket.
_LONGEST_REASON = 123


class PacedSocket:
    """A WebSocket with `pace` seconds between two messages to the client.

    That the client has gone is one error, WebSocketDisconnect: Starlette and servers have several.
    """

    def __init__(self, websocket: WebSocket, pace: float = PACE) -> None:
        self._websocket = websocket
        self._sending = asyncio.Lock()
        self.pace = pace
        # When the last message went out, on the monotonic clock.
        self.sent_at = 0.0

    async def accept(self) -> None:
        """Take the connection."""
        with _disconnects():
            await self._websocket.accept()

    async def receive(self) -> str | bytes:
        """Return the next message, as text or as bytes as it came."""
        with _disconnects():
            message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        data = message.get("bytes")
        return data if data is not None else message.get("text") or ""

    async def send(self, message: Message | str | bytes) -> None:
        """Send a message, as JSON if it is one of ours, when it is its turn."""
        async with self._sending:
            if self.pace:
                await asyncio.sleep(max(self.sent_at + self.pace - time.monotonic(), 0))
            if isinstance(message, dict):
                message = dump(message)
            with _disconnects():
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    await self._websocket.send_text(message)
            self.sent_at = time.monotonic()

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection; of a long reason the client gets the beginning."""
        with _disconnects():
            await self._websocket.close(
                code, reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
            )


class RequestSocket(ABC):
    """A WebSocket on which things are asked for, and done one after the other.

    `work` does one of them. What cannot be done is answered in its turn with `error` and
    `complete`. An interrupt that comes before anything has begun is meant for what comes next.
    """

    # What is asked for, in sentences.
    noun: str

    def __init__(self, websocket: WebSocket) -> None:
        self.socket = PacedSocket(websocket)
        self._backlog: asyncio.Queue[Message | ApiError] = asyncio.Queue(_BACKLOG)
        # Requests that were taken and have not ended; whether the next one is to be interrupted.
        self._pending = 0
        self.interrupts_next = False

    @abstractmethod
    def parse(self, data: str | bytes) -> Any:
        """Return the JSON value of a message; raise ValueError if the message is not JSON."""

    @abstractmethod
    async def take(self, message: Message) -> None:
        """Act on a message of the client: at once, or by `enqueue`."""

    @abstractmethod
    async def work(self, request: Message) -> None:
        """Do what is asked for, to its end; raise ApiError if it cannot be begun."""

    async def serve(self) -> None:
        """Accept the connection and work until the client leaves."""
        with contextlib.suppress(WebSocketDisconnect):
            await self.socket.accept()
            try:
                await race(self._take_all(), self._work_off())
            except asyncio.QueueFull:
                # The only answer that cannot be mistaken for that of another request.
                await self.socket.close(1008, f"more than {_BACKLOG} requests wait")

    def enqueue(self, request: Message) -> None:
        """Have `request` done when its turn comes."""
        self._backlog.put_nowait(request)
        self._pending += 1

    def refuse(self, error: ApiError) -> None:
        """Answer a message with `error` when its turn comes."""
        self._backlog.put_nowait(error)

    def interrupt_next(self) -> None:
        """Remember an interrupt, as nothing runs: for what is on its way, if anything is."""
        self.interrupts_next = self._pending > 0

    async def _take_all(self) -> None:
        while True:
            data = await self.socket.receive()
            try:
                message = self.parse(data)
            except (ValueError, RecursionError):
                message = None
            if isinstance(message, dict):
                await self.take(message)
            else:
                self.refuse(InvalidJson("a message is not a JSON object"))

    async def _work_off(self) -> None:
        while True:
            item = await self._backlog.get()
            if isinstance(item, ApiError):
                await self._answer(item)
                continue
            try:
                await self.work(item)
            except ApiError as error:
                await self._answer(error)
            except WebSocketDisconnect:
                raise
            except Exception:
                log.exception("a %s asked for over a WebSocket failed", self.noun)
                # The client must hear of it, whatever it is.
                await self._answer(InternalError(f"the {self.noun} failed inside the service"))
            finally:
                self._pending -= 1
                self.interrupts_next = False

    async def _answer(self, error: ApiError) -> None:
        await self.socket.send(refusal(error))
        await self.socket.send(complete(False))


@contextlib.contextmanager
def _disconnects() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError):
        raise WebSocketDisconnect from None
