"""How tests watch files: over a WebSocket, as events, and in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from kernelagent.files.fs import names
from tests.runs import client_of
from tests.servers import Server, Service
from tests.waiting import until

Message = dict[str, Any]

_PROBE = "probe-"


def told(changes: list[Message], root: Path) -> list[tuple[str, str]]:
    """Event and path below `root` of each change; a rename has both paths."""
    found = []
    for change in changes:
        path = _below(change["path"], root)
        if "old_path" in change:
            path = f"{_below(change['old_path'], root)} -> {path}"
        found.append((change["event"], path))
    return found


def _below(path: str, root: Path) -> str:
    # There are tens of thousands of them, and relpath takes its time.
    inner = path.removeprefix(f"{root}/")
    return os.path.relpath(path, root) if inner == path else inner


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

    async def settle(self) -> list[tuple[str, str]]:
        """All that came of what was done until now: a probe comes after it."""
        probe = self.root / f"{_PROBE}{len(self.seen)}-{os.urandom(4).hex()}"
        probe.touch()
        await until(lambda: self._has("created", probe))
        probe.unlink()
        await until(lambda: self._has("deleted", probe))
        return [change for change in self.take() if _PROBE not in change[1]]

    def _has(self, event: str, path: Path) -> bool:
        wanted = (event, str(path))
        return any((item.get("event"), item.get("path")) == wanted for item in self.seen)


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
async def socket_to(server: Service, path: str | None, **options: Any) -> AsyncIterator[Any]:
    """A WebSocket on which `path` was asked for."""
    url = f"{server.websocket_url}/files/watch"
    options.setdefault("additional_headers", server.headers)
    async with connect(url, **options) as socket:
        if path is not None:
            await socket.send(json.dumps({"action": "watch", "path": path}))
        yield socket


@contextlib.asynccontextmanager
async def watched(server: Service, root: Path, **options: Any) -> AsyncIterator[SocketWatcher]:
    """A watch on a WebSocket that is on."""
    async with socket_to(server, str(root), **options) as socket:
        watcher = SocketWatcher(root, socket)
        async with reading(watcher):
            try:
                await until_on(server, root)
                yield watcher
            finally:
                # While it is read: a close that stands behind unread messages is waited for.
                await socket.close()


async def watches(server: Service) -> list[str]:
    """The paths of the watches that are on."""
    async with client_of(server) as client:
        response = await client.get("/files/watch")
    assert response.status_code == 200
    body = response.json()
    assert body["count"] == len(body["watches"])
    return [item["path"] for item in body["watches"]]


def process_of(server: Service) -> int:
    """The id of the process that it is in."""
    return server.process.pid if isinstance(server, Server) else os.getpid()


def watches_of(server: Service, root: Path) -> int:
    """How many inotify watches the server has of it, or of what it is in."""
    inode = root.stat().st_ino if root.is_dir() else root.parent.stat().st_ino
    return watched_inodes(process_of(server)).count(inode)


async def until_on(server: Service, root: Path, number: int = 1) -> None:
    """Wait until `number` watches of `root` are on, or of what it is in: all of it was seen."""
    shown = names.shown(f"{root}/")

    async def are_on() -> bool:
        paths = [f"{path}/" for path in await watches(server)]
        listed = sum(path.startswith(shown) or shown.startswith(path) for path in paths)
        return listed >= number and watches_of(server, root) >= number

    await until(are_on)


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


class Refused(Exception):
    """A watch was not begun; the response is read."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.text)
        self.response = response


@contextlib.asynccontextmanager
async def events(server: Service, root: Path, **headers: str) -> AsyncIterator[EventWatcher]:
    """A watch as server-sent events that is on. Raises Refused."""
    params = {"path": str(root)}
    async with (
        client_of(server, Accept="text/event-stream", **headers) as client,
        client.stream("GET", "/files/watch", params=params) as response,
    ):
        if response.status_code != 200:
            await response.aread()
            raise Refused(response)
        watcher = EventWatcher(root, response)
        async with reading(watcher):
            await until(lambda: watcher.seen)
            yield watcher
