"""Receivers of webhooks on loopback, and an outbox with its database to send to them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelagent.database import FILE, Database
from kernelagent.settings import load_settings
from kernelagent.webhooks.backoff import Backoff
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.webhook import Delivery, Webhook
from tests.waiting import PATIENCE, until

LOOPBACK = ("127.0.0.0/8", "::1")
QUICK = Backoff(first=0.02, longest=0.1, longest_asked=5)


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    line: str
    headers: Mapping[str, str]
    names: list[str]
    body: bytes
    at: float
    reader: asyncio.StreamReader


Reply = Callable[[Call, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, *headers: str, body: bytes = b"") -> Reply:
    """An ordinary answer."""

    async def reply(_: Call, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return reply


async def hang(call: Call, _: asyncio.StreamWriter) -> None:
    """Never answer, until the other side has gone."""
    await call.reader.read()


class Receiver:
    """An HTTP server that answers by a list of replies, the last of them over and over."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies) or [answer(200)]
        self._tasks: set[asyncio.Task[Any]] = set()
        self.calls: list[Call] = []
        self.connections = 0
        self.most_at_once = 0
        self.faults: list[Exception] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def at_once(self) -> int:
        """Connections that are open."""
        return len(self._tasks)

    @asynccontextmanager
    async def listening(
        self, port: int = 0, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, host, port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()
        assert not self.faults

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.most_at_once = max(self.most_at_once, len(self._tasks))
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has gone, as it may
        except asyncio.CancelledError:
            pass  # the streams of asyncio would log it
        except Exception as error:
            # uvloop refuses with a RuntimeError to write to one that has gone.
            if not (isinstance(error, RuntimeError) and writer.transport.is_closing()):
                self.faults.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in head[1:] if line]
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        names = [name.lower() for name, _ in pairs]
        call = Call(head[0], headers, names, body, time.monotonic(), reader)
        self.calls.append(call)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        await reply(call, writer)


def rows(directory: Path) -> list[dict[str, object]]:
    with contextlib.closing(sqlite3.connect(directory / FILE)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM webhooks ORDER BY rowid")]


@dataclass
class Office:
    """An outbox, its database, and the jobs that were given to it."""

    database: Database
    outbox: Outbox
    jobs: list[str] = field(default_factory=list)

    async def post(
        self,
        url: str,
        body: bytes = b'{"ok":true}',
        headers: Mapping[str, str] | None = None,
        secret: str | None = None,
    ) -> Webhook:
        """A job that has ended at once."""
        webhook = Webhook(f"job_{len(self.jobs)}", url, headers or {}, secret)
        self.outbox.check(webhook.url, webhook.headers)
        self.jobs.append(webhook.job_id)
        await self.database.run(lambda connection: self.outbox.register(connection, webhook))
        assert await self.database.run(
            lambda connection: self.outbox.release(connection, webhook.job_id, body)
        )
        self.outbox.wake()
        return webhook

    async def look(self, webhook: Webhook) -> Delivery:
        found = await self.database.run(
            lambda connection: self.outbox.deliveries(connection, [webhook.job_id])
        )
        return found[webhook.job_id]

    async def attempted(self, webhook: Webhook, attempts: int = 1) -> Delivery:
        """The delivery, once it is known how an attempt ended."""

        async def outcome() -> Delivery | None:
            delivery = await self.look(webhook)
            return delivery if delivery.attempts >= attempts and delivery.last_error else None

        delivery: Delivery = await until(outcome)
        return delivery

    async def ended(self, webhook: Webhook) -> Delivery:
        """The delivery, once it is over."""

        async def outcome() -> Delivery | None:
            delivery = await self.look(webhook)
            return None if delivery.state in ("waiting", "pending") else delivery

        delivery: Delivery = await until(outcome)
        return delivery

    async def change(self, statement: str) -> None:
        """Change the table of webhooks behind the outbox's back."""
        await self.database.run(lambda connection: connection.execute(statement))


@functools.cache
def _authorities() -> ssl.SSLContext:
    # It takes longer to load them than most tests need.
    return ssl.create_default_context()


@asynccontextmanager
async def opened(
    directory: Path,
    *,
    backoff: Backoff = QUICK,
    tls: ssl.SSLContext | None = None,
    allow: tuple[str, ...] = LOOPBACK,
    timeout: float = PATIENCE,
    retry_time: float = 2 * PATIENCE,
    **options: Any,
) -> AsyncIterator[Office]:
    """An office in `directory`; what is left in it goes on."""
    database = Database(directory)
    settings = load_settings(
        webhook_allow=allow, webhook_timeout=timeout, webhook_retry_time=retry_time
    )
    outbox = Outbox(database, settings, backoff=backoff, tls=tls or _authorities(), **options)
    try:
        await database.open()
        await outbox.open()
        yield Office(database, outbox)
    finally:
        await outbox.close()
        await outbox.close()
        await database.close()
