"""How long results are kept, clearing, and the routes of the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.execution.cache.cached import (
    cached_run,
    clear,
    counting,
    runs,
    statistics,
    until_runs,
    waiting,
)
from tests.runs import client_of, refused, run
from tests.servers import Server, Service, serving_in_process

# Life, clearing


async def test_a_result_ends_with_its_life(server: Server, counter: Path) -> None:
    code = counting(counter)
    await run(server, code, isolated=True, cache_ttl=0.3)
    await asyncio.sleep(0.4)

    assert (await cached_run(server, code))["cached"] is False
    assert runs(counter) == 2


async def test_a_caller_gets_nothing_older_than_it_wants(server: Server, counter: Path) -> None:
    code = counting(counter)
    await cached_run(server, code)
    await asyncio.sleep(0.3)

    assert (await run(server, code, isolated=True, cache_ttl=1000))["cached"] is True
    assert (await run(server, code, isolated=True, cache_ttl=0.2))["cached"] is False
    assert runs(counter) == 2


async def test_a_run_from_before_a_clearing_is_not_kept(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    code = waiting(counter, tmp_path / "go")
    before = asyncio.create_task(cached_run(server, code))
    await until_runs(counter, 1)
    await clear(server)
    # Nor joined: it began before.
    after = asyncio.create_task(cached_run(server, code))
    await until_runs(counter, 2)
    await clear(server)
    (tmp_path / "go").touch()

    assert [(await before)["cached"], (await after)["cached"]] == [False, False]
    assert (await statistics(server))["count"] == 0
    assert (await cached_run(server, code))["cached"] is False
    assert runs(counter) == 3


@pytest.fixture(scope="module")
def server_without_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("uncached")
    with serving_in_process(root, cache_entries=0, preload=()) as server:
        yield server


async def test_without_a_cache_runs_still_work(
    server_without_cache: Service, counter: Path
) -> None:
    for _ in range(2):
        answer = await cached_run(server_without_cache, counting(counter, "1"))
        assert (answer["cached"], answer["result"]) == (False, "1")

    assert runs(counter) == 2
    await refused(server_without_cache, 400, "1", cache=True)
    facts = await statistics(server_without_cache)
    assert (facts["misses"], facts["stores"], facts["cache"]["max_size"]) == (2, 0, 0)
    async with client_of(server_without_cache) as client:
        assert (await client.get("/health")).json()["features"]["result_cache"] is False


# Routes


async def test_statistics_have_the_shapes_of_published_clients(
    server: Server, counter: Path
) -> None:
    await clear(server)
    for _ in range(2):
        await cached_run(server, counting(counter))
    async with client_of(server) as client:
        overview = (await client.get("/cache")).json()
        root = (await client.get("/")).json()
    facts = await statistics(server)

    inner = facts["cache"]
    assert (inner["size"], inner["max_size"], inner["ttl"]) == (1, 10_000, "3600s")
    assert (inner["ttl_seconds"], inner["max_bytes"]) == (3600, 64 * 2**20)
    assert inner["total_hits"] == facts["hits"] >= 1
    assert facts["count"] == facts["total_cached"] == 1
    assert inner["bytes"] > 1000
    assert facts["size"] == inner["bytes"] / 1e6
    assert 0 < facts["hit_rate"] < 1
    assert facts["hit_rate"] == facts["hits"] / (facts["hits"] + facts["misses"])
    assert facts["timestamp"].endswith("Z")
    for name in ("stores", "evictions", "expired", "shared", "refused"):
        assert isinstance(facts[name], int)
    assert set(overview) == set(root) | set(facts)
    assert overview["endpoints"] == root["endpoints"]


async def test_clearing_tells_what_was_removed(server: Server, counter: Path) -> None:
    await clear(server)
    await cached_run(server, counting(counter))
    held = (await statistics(server))["cache"]["bytes"]

    answer = await clear(server)

    assert answer["success"] is True
    assert answer["entries_removed"] == answer["cleared_entries"] == 1
    assert answer["freed_bytes"] == held
    assert "cleared" in answer["message"]
    assert answer["timestamp"].endswith("Z")
    assert (await clear(server))["entries_removed"] == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"null", b'"x"', b'{"all": true}'])
async def test_clearing_takes_any_body(server: Server, content: bytes) -> None:
    async with client_of(server) as client:
        response = await client.post("/cache/clear", content=content)
    assert response.status_code == 200
