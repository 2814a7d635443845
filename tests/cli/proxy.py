"""A TCP proxy on loopback whose connections a test cuts, refuses and counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on to a service."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = (target.hostname, target.port)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.url = ""
        self.refused = 0
        self._passed = 0  # bytes, from the service to its clients
        self._limit: int | None = None
        self._reached = asyncio.Event()
        self.refusing = False

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> int:
        """Break all connections in the midst of what they carry; how many there were."""
        connections, self._connections = self._connections, {}
        for connection, writer in connections.items():
            connection.cancel()
            writer.transport.abort()
        return len(connections)

    async def cut_after(self, count: int) -> None:
        """Break the connection that carries the last of `count` more bytes; returns then."""
        self._reached.clear()
        self._limit = self._passed + count
        await self._reached.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            self.refused += 1
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._pass_on(reader, writer))
        self._connections[connection] = writer
        await asyncio.gather(connection, return_exceptions=True)
        self._connections.pop(connection, None)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        sending = asyncio.create_task(_pump(reader, there_writer))
        try:
            while data := await there_reader.read(4096):
                if self._limit is not None and self._passed + len(data) >= self._limit:
                    writer.write(data[: self._limit - self._passed])
                    await writer.drain()
                    self._passed, self._limit = self._limit, None
                    writer.transport.abort()
                    self._reached.set()
                    return
                writer.write(data)
                self._passed += len(data)
                await writer.drain()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            there_writer.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
