"""Equal cached runs at the same time."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.execution.cache.cached import (
    cached_run,
    counting,
    leave,
    runs,
    statistics,
    until_runs,
    waiting,
)
from tests.execution.clients import round_trips
from tests.runs import client_of
from tests.servers import Server
from tests.waiting import until


async def test_ten_equal_runs_are_one(server: Server, counter: Path, tmp_path: Path) -> None:
    before = await statistics(server)
    code = waiting(counter, tmp_path / "go")
    callers = [asyncio.create_task(cached_run(server, code)) for _ in range(10)]

    async def all_wait() -> bool:
        return bool((await statistics(server))["shared"] == before["shared"] + 9)

    await until(all_wait)
    (tmp_path / "go").touch()
    answers = await asyncio.gather(*callers)

    assert runs(counter) == 1
    assert sorted(answer["cached"] for answer in answers) == [False] + [True] * 9
    assert {answer.get("age") for answer in answers} == {None, 0}
    assert len({answer["execution_id"] for answer in answers}) == 1
    after = await statistics(server)
    assert (after["misses"] - before["misses"], after["hits"] - before["hits"]) == (1, 0)
    assert (await cached_run(server, code))["cached"] is True


async def test_all_get_the_answer_of_a_run_that_fails(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    before = (await statistics(server))["shared"]
    code = waiting(counter, tmp_path / "go", "1/0")
    callers = [asyncio.create_task(cached_run(server, code)) for _ in range(3)]

    async def all_wait() -> bool:
        return bool((await statistics(server))["shared"] == before + 2)

    await until(all_wait)
    (tmp_path / "go").touch()
    answers = await asyncio.gather(*callers)

    assert [answer["cached"] for answer in answers] == [False] * 3
    assert {answer["error"]["ename"] for answer in answers} == {"ZeroDivisionError"}
    assert runs(counter) == 1


async def test_a_caller_that_leaves_does_not_disturb_the_others(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    before = (await statistics(server))["shared"]
    code = waiting(counter, tmp_path / "go", "'whole'")
    leader = asyncio.create_task(cached_run(server, code))
    await until_runs(counter, 1)
    other = asyncio.create_task(cached_run(server, code))

    async def is_shared() -> bool:
        return bool((await statistics(server))["shared"] == before + 1)

    await until(is_shared)
    await leave(leader)
    await round_trips(server)
    (tmp_path / "go").touch()

    answer = await other
    assert (answer["result"], answer["cached"]) == ("'whole'", True)
    assert runs(counter) == 1


async def sessions(server: Server) -> list[str]:
    async with client_of(server) as client:
        response = await client.get("/sessions")
    found = [item["id"] for item in response.json()["sessions"]]
    return [name for name in found if name.startswith("isolated-")]


async def test_a_run_ends_when_all_its_callers_have_left(server: Server, counter: Path) -> None:
    code = counting(counter, "import time; time.sleep(60)")
    callers = [asyncio.create_task(cached_run(server, code, timeout=90)) for _ in range(2)]
    await until_runs(counter, 1)
    for caller in callers:
        assert await sessions(server)
        await leave(caller)

    async def has_ended() -> bool:
        return not await sessions(server)

    await until(has_ended)
    assert runs(counter) == 1


async def test_a_run_that_may_go_on_is_kept_though_nobody_waits(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    before = (await statistics(server))["stores"]
    code = waiting(counter, tmp_path / "go")
    caller = asyncio.create_task(cached_run(server, code, on_disconnect="continue"))
    await until_runs(counter, 1)
    await leave(caller)
    await round_trips(server)
    (tmp_path / "go").touch()

    async def is_kept() -> bool:
        return bool((await statistics(server))["stores"] == before + 1)

    await until(is_kept)
    assert (await cached_run(server, code))["cached"] is True
    assert runs(counter) == 1
