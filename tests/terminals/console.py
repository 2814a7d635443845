"""How tests sit at a terminal: type, read, look at the screen, count what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import websockets

from tests.runs import client_of
from tests.servers import Server, Service
from tests.waiting import PATIENCE, until

Message = dict[str, Any]

# A shell that says nothing by itself and reads no files of the user's.
QUIET: dict[str, Any] = {
    "command": "bash",
    "args": ["--norc", "--noprofile", "--noediting"],
    "env": {"PS1": "", "HISTFILE": ""},
}


class Console:
    """One connection to a terminal, and all that came over it."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection
        self.messages: list[Message] = []
        self.text = ""
        self.raw = b""

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def type(self, keys: str) -> None:
        await self.send("input", data=keys)

    async def receive(self) -> Message:
        """The next message, or an empty one for a frame of output."""
        received = await self.connection.recv()
        if isinstance(received, bytes):
            self.raw += received
            return {}
        message: Message = json.loads(received)
        self.messages.append(message)
        if message["type"] == "output":
            self.text += message["data"]
        return message

    async def until(self, condition: str | Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Read until a text was printed or something holds."""
        async with asyncio.timeout(seconds):
            while not (condition in self.text if isinstance(condition, str) else condition()):
                await self.receive()

    async def until_type(self, kind: str, seconds: float = PATIENCE) -> Message:
        """Read until a message of this type; the message."""
        async with asyncio.timeout(seconds):
            while (message := await self.receive()).get("type") != kind:
                pass
        return message

    async def close_code(self) -> int | None:
        """How the server closes the connection, once it does."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await self.receive()
        return self.connection.close_code


@contextlib.asynccontextmanager
async def console(
    server: Service, path: str = "/terminal", options: dict[str, Any] | None = None, **query: Any
) -> AsyncIterator[Console]:
    """A connection with a good token."""
    asked = f"?{urlencode(query)}" if query else ""
    async with websockets.connect(
        f"{server.websocket_url}{path}{asked}",
        additional_headers=server.headers,
        **{"compression": None, **(options or {})},
    ) as connection:
        yield Console(connection)


async def refusal(server: Service, path: str, **query: Any) -> tuple[int, Message]:
    """Status and body with which a connection is refused."""
    try:
        async with console(server, path, **query):
            raise AssertionError("it was accepted")
    except websockets.InvalidStatus as error:
        return error.response.status_code, json.loads(error.response.body or b"{}")


async def call(server: Service, method: str, path: str = "/terminals", **body: Any) -> Message:
    """What a route answers that must succeed."""
    response = await attempt(server, method, path, **body)
    assert response.is_success, response.text
    answer: Message = response.json()
    return answer


async def info(server: Service, path: str) -> Message:
    """What is told of a named terminal."""
    return await call(server, "GET", path)


async def attempt(
    server: Service, method: str, path: str = "/terminals", **body: Any
) -> httpx.Response:
    """What a route answers."""
    async with client_of(server) as client:
        return await client.request(method, path, json=body or None)


@contextlib.asynccontextmanager
async def terminal(server: Service, **wanted: Any) -> AsyncIterator[str]:
    """The path of a named terminal that is removed afterwards."""
    made = await call(server, "POST", **{**QUIET, **wanted})
    path = f"/terminals/{made['id']}"
    try:
        yield path
    finally:
        await attempt(server, "DELETE", path)


def ptys(server: Service) -> int:
    """How many descriptors of pseudo-terminals the server holds."""
    process = server.process.pid if isinstance(server, Server) else os.getpid()
    links = []
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return sum("/ptmx" in link or "/pts/" in link for link in links)


async def none_open(server: Service) -> None:
    """Wait until what tests before have left has been cleared up."""

    async def has_none() -> bool:
        return ptys(server) == 0

    await until(has_none)


def bearers(text: str) -> list[int]:
    """The processes that have `text`, which is a test's own, as argument or in the environment."""
    wanted = text.encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Those that have ended have neither.
            said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            if wanted in said:
                found.append(int(folder.name))
    return found
