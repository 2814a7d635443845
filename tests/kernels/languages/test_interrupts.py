"""Interrupts in every language alike: what ends a run keeps the state."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.kernels.languages.snippets import Snippets
from tests.runs import client_of, messages, run, streamed
from tests.servers import Server


async def result_of(items: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The message that tells how the run has ended."""
    found = [item async for item in items if "outcome" in item]
    assert len(found) == 1
    return found[0]


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["spin", "wait"])
async def test_an_interrupt_is_quick_and_keeps_the_state(
    server: Server, snippets: Snippets, own: dict[str, Any], kind: str
) -> None:
    await run(server, snippets.remember, **own)
    async with client_of(server) as client, streamed(server, getattr(snippets, kind), **own) as it:
        items = messages(it)
        async for item in items:
            if item["type"] == "stdout" and "begun" in item["data"]:
                break
        started = time.monotonic()
        response = await client.post(f"/sessions/{own['session_id']}/interrupt")
        assert response.json()["interrupted"] is True
        result = await result_of(items)
    assert time.monotonic() - started < 1.4
    assert (result["outcome"], result["state_lost"]) == ("interrupted", False)
    assert (await run(server, snippets.recall, **own))["stdout"] == "42\n"


async def test_a_time_limit_keeps_output_and_state(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    await run(server, snippets.remember, **own)
    # Compiled once before, so that its time is not the compiler's.
    async with client_of(server) as client, streamed(server, snippets.wait, **own) as it:
        async for item in messages(it):
            if item["type"] == "stdout":
                await client.post(f"/sessions/{own['session_id']}/interrupt")
    answer = await run(server, snippets.wait, **own | {"timeout": 1})
    assert (answer["outcome"], answer["exit_code"]) == ("timeout", 124)
    assert (answer["stdout"], answer["state_lost"]) == ("begun\n", False)
    assert (await run(server, snippets.recall, **own))["stdout"] == "42\n"


async def test_a_caller_who_leaves_is_an_interrupt(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    await run(server, snippets.remember, **own)
    async with streamed(server, snippets.wait, **own) as it:
        async for item in messages(it):
            if item["type"] == "stdout":
                break
    started = time.monotonic()
    assert (await run(server, snippets.recall, **own))["stdout"] == "42\n"
    assert time.monotonic() - started < 10


async def test_a_wait_for_input_can_be_interrupted(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    await run(server, snippets.remember, **own)
    async with client_of(server) as client, streamed(server, snippets.ask, **own) as it:
        items = messages(it)
        async for item in items:
            if item["type"] == "input_request":
                await client.post(f"/sessions/{own['session_id']}/interrupt")
                break
        result = await result_of(items)
    assert (result["outcome"], result["state_lost"]) == ("interrupted", False)
    assert (await run(server, snippets.recall, **own))["stdout"] == "42\n"
