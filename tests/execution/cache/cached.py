"""How tests run code that may be cached, and count how often it was run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.runs import client_of, run
from tests.servers import Service
from tests.waiting import until


def counting(counter: Path, then: str = "") -> str:
    return f"with open({str(counter)!r}, 'a') as f: f.write('x')\n{then}"


def runs(counter: Path) -> int:
    return counter.stat().st_size if counter.exists() else 0


async def cached_run(server: Service, code: str, **fields: Any) -> dict[str, Any]:
    return await run(server, code, **{"isolated": True, "cache": True, **fields})


async def statistics(server: Service) -> dict[str, Any]:
    async with client_of(server) as client:
        response = await client.get("/cache/stats")
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def clear(server: Service) -> dict[str, Any]:
    async with client_of(server) as client:
        response = await client.post("/cache/clear")
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def until_runs(counter: Path, wanted: int) -> None:
    async def have_begun() -> bool:
        return runs(counter) >= wanted

    await until(have_begun)


def waiting(counter: Path, go: Path, then: str = "1") -> str:
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
    return counting(counter, wait + then)


async def leave(caller: asyncio.Task[Any]) -> None:
    """Hang up."""
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
