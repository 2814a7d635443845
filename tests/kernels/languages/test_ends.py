"""Ends of code, kernels and sessions, in every language alike."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import psutil

from tests.jupyter.leaks import runs
from tests.kernels.languages.snippets import Snippets
from tests.runs import client_of, run, session_facts, until_busy
from tests.servers import Server
from tests.waiting import until


async def test_code_may_end_itself(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    await run(server, snippets.remember, **own)
    answer = await run(server, snippets.leave, **own)
    assert (answer["success"], answer["exit_code"], answer["outcome"]) == (False, 3, "error")
    assert answer["state_lost"] == snippets.leaving_loses_state
    assert bool(answer["notes"]) == snippets.leaving_loses_state
    if not snippets.leaving_loses_state:
        assert (await run(server, snippets.recall, **own))["stdout"] == "42\n"
    answer = await run(server, snippets.leave_well, **own)
    assert (answer["success"], answer["exit_code"], answer["outcome"]) == (True, 0, "ok")
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_death_is_told_and_the_session_goes_on(
    server: Server, snippets: Snippets, own: dict[str, Any], language: str
) -> None:
    answer = await run(server, snippets.die, **own)
    assert (answer["success"], answer["exit_code"]) == (False, 137)
    assert answer["stdout"] == "begun\n"
    if language != "go":
        assert (answer["outcome"], answer["state_lost"]) == ("kernel_died", True)
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_the_death_of_a_kernel_is_noticed(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    facts = await session_facts(server, own["session_id"])
    waiting = asyncio.create_task(run(server, snippets.wait, **own))
    await until_busy(server, own["session_id"])
    os.kill(facts["pid"], 9)
    answer = await waiting
    assert (answer["outcome"], answer["state_lost"]) == ("kernel_died", True)
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_a_restart_loses_the_state_and_nothing_else(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    await run(server, snippets.remember, **own)
    async with client_of(server) as client:
        response = await client.post(f"/sessions/{own['session_id']}/restart")
        assert response.is_success
    assert "42" not in (await run(server, snippets.recall, **own))["stdout"]
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_nothing_is_left_of_a_session(
    server: Server, snippets: Snippets, fresh: dict[str, Any]
) -> None:
    facts = await session_facts(server, fresh["session_id"])
    task = asyncio.create_task(run(server, snippets.wait, **fresh))
    await until_busy(server, fresh["session_id"])
    kernel = psutil.Process(facts["pid"])
    family = [kernel.pid, *(child.pid for child in kernel.children(recursive=True))]
    async with client_of(server) as client:
        await client.delete(f"/sessions/{fresh['session_id']}")
    assert (await task)["outcome"] == "cancelled"

    await until(lambda: not any(map(runs, family)))
