"""How tests run code over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import websockets

from tests.runs import Message
from tests.servers import Server
from tests.waiting import PATIENCE

PATHS = ("/execute/stream", "/stream", "/stream/ipython")

# What published clients accept.
LARGEST_MESSAGE = 2**20


@contextlib.asynccontextmanager
async def connected(
    server: Server, path: str = "/stream", **options: Any
) -> AsyncIterator[websockets.ClientConnection]:
    """A WebSocket with a good token and the limits of published clients."""
    options.setdefault("additional_headers", server.headers)
    async with websockets.connect(
        server.websocket_url + path, max_size=LARGEST_MESSAGE, **options
    ) as connection:
        yield connection


async def until_complete(connection: websockets.ClientConnection) -> list[Message]:
    """All messages up to `complete`."""
    items: list[Message] = []
    async with asyncio.timeout(PATIENCE):
        while not items or items[-1]["type"] != "complete":
            items.append(json.loads(await connection.recv()))
    return items


async def execute(
    connection: websockets.ClientConnection, code: str, **fields: Any
) -> list[Message]:
    """All messages of one run."""
    await connection.send(json.dumps({"type": "execute", "code": code, **fields}))
    return await until_complete(connection)
