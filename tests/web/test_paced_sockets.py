"""Sockets as clients need them, on a connection that the test holds in its hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.errors import QueueFull
from kernelagent.web.sockets import PacedSocket, RequestSocket
from kernelagent.web.streaming import Message
from tests.waiting import until


class Connection:
    """Both ends of a WebSocket: what the client sends, and what it gets."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.is_broken = False
        self.websocket = WebSocket({"type": "websocket"}, self.incoming.get, self._take)

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(event["text"]) for event in self.sent if "text" in event]

    @property
    def close(self) -> dict[str, Any]:
        return next(event for event in self.sent if event["type"] == "websocket.close")

    async def _take(self, event: Any) -> None:
        if self.is_broken:
            raise OSError("gone")
        self.sent.append(dict(event))
        self.times.append(time.monotonic())


class Asked(RequestSocket):
    """Works on each request until it may end, and tells which were interrupted."""

    noun = "thing"

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.websocket)
        self.begun: list[Any] = []
        self.interrupted: list[Any] = []
        self.may_begin = asyncio.Event()
        self.may_end = asyncio.Event()

    def parse(self, data: str | bytes) -> Any:
        return json.loads(data)

    async def take(self, message: Message) -> None:
        if message.get("interrupt"):
            self.interrupt_next()
        else:
            self.enqueue(message)

    async def work(self, request: Message) -> None:
        await self.may_begin.wait()
        self.begun.append(request["name"])
        if self.interrupts_next:
            self.interrupted.append(request["name"])
        await self.may_end.wait()
        if request["name"] == "refused":
            raise QueueFull("no room")
        if request["name"] == "broken":
            raise ValueError("a secret")
        if request["name"] == "unanswerable":
            raise QueueFull("no room", details={"room": object()})
        await self.socket.send({"type": "done", "name": request["name"]})


@contextlib.asynccontextmanager
async def served(socket: Asked, connection: Connection) -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    serving = asyncio.create_task(socket.serve())
    try:
        yield
    finally:
        connection.leave()
        await serving
    assert asyncio.all_tasks() == before


async def test_there_is_a_pause_between_two_messages() -> None:
    connection = Connection()
    socket = PacedSocket(connection.websocket, 0.02)
    await socket.accept()
    await asyncio.gather(*(socket.send({"n": number}) for number in range(4)))
    assert [message["n"] for message in connection.messages] == [0, 1, 2, 3]
    first, *_, last = connection.times[1:]
    assert last - first >= 0.06


async def test_text_and_bytes_come_and_go_as_they_are() -> None:
    connection = Connection()
    socket = PacedSocket(connection.websocket, 0)
    await socket.accept()
    for data in ("text", b"bytes", b""):
        key = "text" if isinstance(data, str) else "bytes"
        connection.incoming.put_nowait({"type": "websocket.receive", key: data})
        assert await socket.receive() == data
    await socket.send("text")
    await socket.send(b"bytes")
    assert connection.sent[1:] == [
        {"type": "websocket.send", "text": "text"},
        {"type": "websocket.send", "bytes": b"bytes"},
    ]


async def test_a_client_that_has_gone_is_one_error() -> None:
    connection = Connection()
    socket = PacedSocket(connection.websocket, 0)
    await socket.accept()
    connection.is_broken = True
    for _ in range(2):
        with pytest.raises(WebSocketDisconnect):
            await socket.send("x")
    with pytest.raises(WebSocketDisconnect):
        await socket.close(1000)
    connection.leave()
    for _ in range(2):
        with pytest.raises(WebSocketDisconnect):
            await socket.receive()


async def test_a_long_reason_is_cut_between_two_characters() -> None:
    connection = Connection()
    socket = PacedSocket(connection.websocket, 0)
    await socket.accept()
    await socket.close(1008, "ä" * 100)
    assert connection.close["reason"] == "ä" * 61


async def test_requests_are_worked_off_in_order_with_refusals_in_their_place() -> None:
    connection = Connection()
    socket = Asked(connection)
    socket.may_begin.set()
    socket.may_end.set()
    connection.send({"name": "a"}, ["no object"], {"name": "refused"}, {"name": "broken"})
    connection.send({"name": "b"})
    async with served(socket, connection):
        await until(lambda: len(connection.messages) == 8)
    told = [message.get("name") or message.get("code") for message in connection.messages]
    internal = "INTERNAL_ERROR"
    assert told == ["a", "INVALID_JSON", None, "QUEUE_FULL", None, internal, None, "b"]
    assert "secret" not in str(connection.messages)


async def test_an_early_interrupt_is_for_what_waits() -> None:
    connection = Connection()
    socket = Asked(connection)
    socket.may_end.set()
    connection.send({"name": "a"}, {"interrupt": True}, {"name": "b"})
    async with served(socket, connection):
        await until(lambda: socket.interrupts_next)
        socket.may_begin.set()
        await until(lambda: len(connection.messages) == 2)
    assert (socket.begun, socket.interrupted) == (["a", "b"], ["a"])


async def test_an_interrupt_while_only_something_bad_waits_hits_nothing_later() -> None:
    connection = Connection()
    socket = Asked(connection)
    connection.send("bad", {"interrupt": True})
    socket.may_begin.set()
    socket.may_end.set()
    async with served(socket, connection):
        await until(lambda: len(connection.messages) == 2)
        connection.send({"name": "a"})
        await until(lambda: len(connection.messages) == 3)
    assert (socket.begun, socket.interrupted) == (["a"], [])


async def test_more_than_a_hundred_requests_close_the_connection() -> None:
    connection = Connection()
    socket = Asked(connection)
    connection.send(*({"name": str(number)} for number in range(150)))
    async with served(socket, connection):
        await until(lambda: any(event["type"] == "websocket.close" for event in connection.sent))
    assert (connection.close["code"], connection.close["reason"]) == (
        1008,
        "more than 100 requests wait",
    )
    assert socket.begun == []


async def test_a_client_that_goes_while_it_is_answered_ends_the_work() -> None:
    connection = Connection()
    socket = Asked(connection)
    socket.may_begin.set()
    socket.may_end.set()
    async with served(socket, connection):
        await until(lambda: connection.sent != [])
        connection.is_broken = True
        connection.send({"name": "a"}, {"name": "b"})
        await until(lambda: socket.begun == ["a"])
    assert socket.begun == ["a"]


async def test_an_answer_that_cannot_be_made_ends_the_connection_with_an_error() -> None:
    connection = Connection()
    socket = Asked(connection)
    socket.may_begin.set()
    socket.may_end.set()
    connection.send({"name": "unanswerable"}, {"name": "b"})
    before = asyncio.all_tasks()
    with pytest.raises(TypeError, match="not JSON serializable"):
        await socket.serve()
    assert (socket.begun, asyncio.all_tasks()) == (["unanswerable"], before)


async def test_a_client_that_leaves_before_the_handshake_is_not_an_error() -> None:
    connection = Connection()
    connection.is_broken = True
    await Asked(connection).serve()
    assert connection.sent == []
