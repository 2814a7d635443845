"""How tests watch files: over a WebSocket, as events, and in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.runs import client_of
from tests.servers import Server
from tests.waiting import until

Message = dict[str, Any]

_PROBE = "probe-"


def told(changes: list[Message], root: Path) -> list[tuple[str, str]]:
    """Event and path below `root` of each change; a rename has both paths."""
    found = []
    for change in changes:
        path = os.path.relpath(change["path"], root)
        if "old_path" in change:
            path = f"{os.path.relpath(change['old_path'], root)} -> {path}"
        found.append((change["event"], path))
    return found


class Watcher:
    """What a client has been told so far."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: list[Message] = []

    @property
    def changes(self) -> list[tuple[str, str]]:
        return told([message for message in self.seen if message["type"] == "change"], self.root)

    def take(self) -> list[tuple[str, str]]:
        """What has come since the last time."""
        taken, self.seen[:] = self.changes, []
        return taken

    async def until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        """Wait until a condition on what has come holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def settle(self) -> list[tuple[str, str]]:
        """All that came of what was done until now: a probe comes after it."""
        probe = self.root / f"{_PROBE}{len(self.seen)}-{os.urandom(4).hex()}"
        probe.touch()
        await self.until(lambda: ("created", probe.name) in self.changes)
        probe.unlink()
        await self.until(lambda: ("deleted", probe.name) in self.changes)
        return [change for change in self.take() if _PROBE not in change[1]]


class SocketWatcher(Watcher):
    """A watch on a WebSocket."""

    def __init__(self, root: Path, socket: ClientConnection) -> None:
        super().__init__(root)
        self.socket = socket

    async def read(self) -> None:
        async for text in self.socket:
            self.seen.append(json.loads(text))


@contextlib.asynccontextmanager
async def reading(watcher: Any) -> AsyncIterator[None]:
    """`watcher.read` as a task, which is ended."""
    task = asyncio.create_task(watcher.read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def socket_to(server: Server, path: str | None, **options: Any) -> AsyncIterator[Any]:
    """A WebSocket on which `path` was asked for."""
    url = f"{server.websocket_url}/files/watch"
    options.setdefault("additional_headers", server.headers)
    async with connect(url, **options) as socket:
        if path is not None:
            await socket.send(json.dumps({"action": "watch", "path": path}))
        yield socket


@contextlib.asynccontextmanager
async def watched(server: Server, root: Path, **options: Any) -> AsyncIterator[SocketWatcher]:
    """A watch on a WebSocket that is on."""
    async with socket_to(server, str(root), **options) as socket:
        watcher = SocketWatcher(root, socket)
        async with reading(watcher):
            await until_on(server, root)
            yield watcher


async def watches(server: Server) -> list[str]:
    """The paths of the watches that are on."""
    async with client_of(server) as client:
        response = await client.get("/files/watch")
    assert response.status_code == 200
    body = response.json()
    assert body["count"] == len(body["watches"])
    return [item["path"] for item in body["watches"]]


def watches_of(server: Server, root: Path) -> int:
    """How many inotify watches the server has of it, or of what it is in."""
    inode = root.stat().st_ino if root.is_dir() else root.parent.stat().st_ino
    return watched_inodes(server.process.pid).count(inode)


async def until_on(server: Server, root: Path, number: int = 1) -> None:
    """Wait until `number` watches of `root` are on: until their inotify watches are."""

    async def is_on() -> bool:
        return watches_of(server, root) >= number

    await until(is_on)


def watched_inodes(pid: int) -> list[int]:
    """Inodes that a process watches by inotify."""
    found = []
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("inotify "):
                    fields = dict(part.split(":", 1) for part in line.split() if ":" in part)
                    found.append(int(fields["ino"], 16))
    return found


def leftovers(pid: int) -> tuple[int, int, int]:
    """How many threads, open files and inotify instances a process has."""
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(path.readlink()))
    instances = sum("inotify" in link for link in links)
    return len(list(Path(f"/proc/{pid}/task").iterdir())), len(links), instances


class EventWatcher(Watcher):
    """A watch as server-sent events: `seen` has what the events carry, `lines` all lines."""

    def __init__(self, root: Path, response: httpx.Response) -> None:
        super().__init__(root)
        self.response = response
        self.lines: list[str] = []
        self.ids: list[str] = []
        self.kinds: list[str] = []

    async def read(self) -> None:
        async for line in self.response.aiter_lines():
            self.lines.append(line)
            name, _, value = line.partition(": ")
            if name == "data":
                self.seen.append(json.loads(value))
            elif name == "id":
                self.ids.append(value)
            elif name == "event":
                self.kinds.append(value)


@contextlib.asynccontextmanager
async def events(server: Server, root: Path, **headers: str) -> AsyncIterator[EventWatcher]:
    """A watch as server-sent events that is on."""
    params = {"path": str(root)}
    async with (
        client_of(server, Accept="text/event-stream", **headers) as client,
        client.stream("GET", "/files/watch", params=params) as response,
    ):
        assert response.status_code == 200, await response.aread()
        watcher = EventWatcher(root, response)
        async with reading(watcher):
            await watcher.until(lambda: watcher.seen)
            yield watcher
