"""Connections that are cut, and a follower of a log that takes it up again after each cut."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx

from tests.jobs.jobs import Message
from tests.runs import client_of
from tests.servers import Service
from tests.waiting import until


class Proxy:
    """Passes connections on to a server and cuts them when told."""

    def __init__(self, server: Service) -> None:
        self._target = int(server.url.rpartition(":")[2])
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        await until(lambda: not self.connected)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that could be cut."""
        return bool(self._writers)

    def cut(self) -> None:
        """End all connections at once, whatever is on its way."""
        self.cuts += self.connected
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        both = {writer, back}
        self._writers |= both
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._writers -= both
            for end in both:
                end.close()


class Follower:
    """Follows the log of a job over a proxy; after a cut it goes on behind the last message."""

    def __init__(self, proxy: Proxy, server: Service, job_id: str, media_type: str) -> None:
        self._server = replace(server, url=proxy.url)
        self._path = f"/jobs/{job_id}/logs"
        self._media_type = media_type
        self.offset = 0

    async def follow(self) -> list[Message]:
        """All messages to the end of the log, keepalives left out."""
        messages: list[Message] = []
        while not messages or messages[-1]["type"] != "end":
            try:
                await self._follow(messages)
            except httpx.TransportError:
                continue
        return messages

    async def _follow(self, messages: list[Message]) -> None:
        query = {"follow": 1, "offset": self.offset}
        async with (
            client_of(self._server, Accept=self._media_type) as client,
            client.stream("GET", self._path, params=query) as response,
        ):
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if not line.startswith(("{", "data: {")):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message["type"] != "keepalive":
                    messages.append(message)
                    self.offset = message["next_offset"]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
