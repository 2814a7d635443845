"""How tests branch sessions and keep states: over HTTP, leaving nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.runs import Message, client_of
from tests.servers import Server, Service
from tests.waiting import until

T = TypeVar("T")

SLEEP = "import time; time.sleep(60)"


def refusal(response: httpx.Response, status: int) -> str:
    """The code of a refused request."""
    assert response.status_code == status, response.text
    code: str = response.json()["code"]
    return code


async def post(server: Service, path: str, **fields: Any) -> httpx.Response:
    """The answer to a request, whatever it is."""
    async with client_of(server) as client:
        return await client.post(path, json=fields)


@contextlib.asynccontextmanager
async def branch(server: Service, parent: str, **wanted: Any) -> AsyncIterator[str]:
    """The id of a branch of `parent` that is deleted afterwards."""
    response = await post(server, f"/sessions/{parent}/branch", **wanted)
    assert response.status_code == 201, response.text
    session_id: str = response.json()["id"]
    try:
        yield session_id
    finally:
        await delete(server, session_id)


async def delete(server: Service, session_id: str) -> None:
    """End a session, if it is there."""
    async with client_of(server) as client:
        await client.delete(f"/sessions/{session_id}")


async def checkpoint(server: Service, session_id: str, **wanted: Any) -> str:
    """The id of a new checkpoint; it goes with its session."""
    response = await post(server, f"/sessions/{session_id}/checkpoints", **wanted)
    assert response.status_code == 201, response.text
    checkpoint_id: str = response.json()["id"]
    return checkpoint_id


async def checkpoints(server: Service, session_id: str) -> list[Message]:
    """The session's checkpoints, as they are listed."""
    async with client_of(server) as client:
        response = await client.get(f"/sessions/{session_id}/checkpoints")
    assert response.status_code == 200, response.text
    listing: Message = response.json()
    assert listing["count"] == len(listing["checkpoints"])
    kept: list[Message] = listing["checkpoints"]
    return kept


async def restore(server: Service, session_id: str, checkpoint_id: str) -> Message:
    """What the session says of itself after it was taken back."""
    path = f"/sessions/{session_id}/restore"
    response = await post(server, path, checkpoint_id=checkpoint_id)
    assert response.status_code == 200, response.text
    facts: Message = response.json()
    return facts


async def health(server: Service) -> Message:
    """What /health says."""
    async with client_of(server) as client:
        facts: Message = (await client.get("/health")).json()
    return facts


async def settle(server: Service) -> None:
    """Wait until the pool is full and nothing starts."""

    async def is_settled() -> bool:
        pool = (await health(server))["pools"]["python"]
        return bool(pool["idle"] == pool["wanted"] and pool["starting"] == 0)

    await until(is_settled)


async def at_rest(server: Service, read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives once it no longer changes."""
    await settle(server)
    readings: list[T] = []

    async def is_steady() -> bool:
        readings.append(await read())
        await asyncio.sleep(0.05)
        return len(readings) >= 4 and all(each == readings[-1] for each in readings[-4:])

    await until(is_steady)
    return readings[-1]


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_ended(*pids: int) -> None:
    """Wait until none of the processes is left."""

    async def are_gone() -> bool:
        return all(has_ended(pid) for pid in pids)

    await until(are_gone)


def processes(server: Server) -> set[int]:
    """All processes below the server's."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return {child.pid for child in children if not has_ended(child.pid)}


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
