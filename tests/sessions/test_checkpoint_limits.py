"""How many checkpoints there may be, and how much memory they may take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import client_of, run, session
from tests.servers import Server, Service, serving_in_process
from tests.sessions.branching import checkpoint, checkpoints, health, post, refusal, restore
from tests.waiting import until

MIB = 2**20


@pytest.fixture(scope="module")
def two_checkpoint_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that keeps two states of each session."""
    root = tmp_path_factory.mktemp("two")
    with serving_in_process(root, max_checkpoints=2, preload=()) as running:
        yield running


@pytest.fixture
def small_memory_server(tmp_path: Path) -> Iterator[Service]:
    """A server whose checkpoints may take 220 MiB together."""
    with serving_in_process(tmp_path, checkpoint_memory=220 * MIB, pool_idle=0) as running:
        yield running


async def test_limit_of_checkpoints_is_each_sessions_own(two_checkpoint_server: Service) -> None:
    server = two_checkpoint_server
    async with session(server) as one, session(server) as two:
        kept = [await checkpoint(server, one) for _ in range(2)]
        response = await post(server, f"/sessions/{one}/checkpoints")
        await checkpoint(server, two)
        async with client_of(server) as client:
            await client.delete(f"/sessions/{one}/checkpoints/{kept[0]}")
        newest = await checkpoint(server, one)
        left = await checkpoints(server, one)

    assert refusal(response, 409) == "CHECKPOINT_LIMIT"
    assert response.json()["details"] == {"limit": 2}
    assert [each["id"] for each in left] == [kept[1], newest]


async def test_limit_holds_when_checkpoints_are_made_at_once(
    two_checkpoint_server: Service,
) -> None:
    server = two_checkpoint_server
    async with session(server) as one, session(server) as two, session(server) as three:
        responses = await asyncio.gather(
            *(post(server, f"/sessions/{each}/checkpoints") for each in (one, two, three) * 4)
        )
        kept = [len(await checkpoints(server, each)) for each in (one, two, three)]

    assert sorted(response.status_code for response in responses) == [201] * 6 + [409] * 6
    assert kept == [2, 2, 2]


async def test_oldest_checkpoint_makes_way_when_they_grow_and_new_ones_are_refused(
    small_memory_server: Service,
) -> None:
    server = small_memory_server
    async with session(server) as session_id, session(server) as other:
        # What a checkpoint shares with its session counts in part, until one of them changes it.
        code = "import numpy as np; big = np.ones(150 * 2**17)"
        await run(server, code, session_id=session_id)
        oldest = await checkpoint(server, session_id)
        await run(server, "big[:] = 2", session_id=session_id)
        newer = await checkpoint(server, session_id)
        await run(server, "big[:] = 3", session_id=session_id)

        async def is_within_memory() -> bool:
            return len(await checkpoints(server, session_id)) == 1

        await until(is_within_memory)
        response = await post(server, f"/sessions/{session_id}/restore", checkpoint_id=oldest)
        of_other = await run(server, "1", session_id=other)
        told = await run(server, "float(big[0])", session_id=session_id)
        await restore(server, session_id, newer)
        restored = await run(server, "float(big[0])", session_id=session_id)

        await run(server, "big[:] = 4", session_id=session_id)
        await checkpoint(server, session_id)
        await run(server, "big[:] = 5", session_id=session_id)
        refused = await post(server, f"/sessions/{other}/checkpoints")
        facts = (await health(server))["memory"]["checkpoints"]

    assert refusal(response, 404) == "CHECKPOINT_NOT_FOUND"
    (note,) = told["notes"]
    assert oldest in note
    assert "220 MiB" in note
    assert of_other["notes"] == restored["notes"] == []
    assert told["result"] == "3.0"
    assert restored["result"] == "2.0"
    assert refusal(refused, 409) == "CHECKPOINT_LIMIT"
    assert refused.json()["details"]["limit"] == 220 * MIB
    assert refused.json()["details"]["used"] > 220 * MIB
    assert facts["count"] == 2
    assert facts["memory"] == refused.json()["details"]["used"]
    assert facts["memory_limit"] == 220 * MIB


async def test_health_counts_checkpoints(server: Server) -> None:
    before = (await health(server))["memory"]["checkpoints"]
    async with session(server) as one, session(server) as two:
        await checkpoint(server, one)
        kept = await checkpoint(server, two)
        during = (await health(server))["memory"]["checkpoints"]
        async with client_of(server) as client:
            await client.delete(f"/sessions/{two}/checkpoints/{kept}")
        later = (await health(server))["memory"]["checkpoints"]
    after = (await health(server))["memory"]["checkpoints"]

    assert during["count"] == before["count"] + 2
    assert during["memory"] > before["memory"]
    assert later["count"] == before["count"] + 1
    assert after["count"] == before["count"]
