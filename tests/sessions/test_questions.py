"""What is asked of a session beside its runs: completion, documentation, variables, input."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runs import (
    client_of,
    messages,
    run,
    session,
    session_facts,
    streamed,
    text_of,
    until_busy,
)
from tests.servers import Server
from tests.sessions.branching import SLEEP, refusal


async def test_completion(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "elephant = 1", session_id=session_id)
        response = await client.post(
            f"/sessions/{session_id}/complete", json={"code": "x = elep", "cursor_pos": 8}
        )

    answer = response.json()
    assert response.status_code == 200
    assert answer["matches"] == ["elephant"]
    assert (answer["cursor_start"], answer["cursor_end"]) == (4, 8)


async def test_completion_counts_characters_and_ends_at_the_end(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "elephant = 1", session_id=session_id)
        code = "'🎉🎉'; elep"
        response = await client.post(f"/sessions/{session_id}/complete", json={"code": code})

    answer = response.json()
    assert answer["matches"] == ["elephant"]
    assert (answer["cursor_start"], answer["cursor_end"]) == (len(code) - 4, len(code))


async def test_inspection(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "def f(a):\n    'What f does.'", session_id=session_id)
        found = await client.post(
            f"/sessions/{session_id}/inspect", json={"code": "f", "detail_level": 1}
        )
        missing = await client.post(f"/sessions/{session_id}/inspect", json={"code": "nothing"})

    assert found.json()["found"] is True
    assert "What f does." in found.json()["data"]["text/plain"]
    assert missing.json() == {"found": False, "data": {}, "metadata": {}}


async def test_variables(server: Server) -> None:
    code = """
import numpy as np, pandas as pd
number = 3
text = 'x' * 1000
array = np.zeros((3, 4))
frame = pd.DataFrame({'a': [1, 2]})
_hidden = 1
class Loud:
    def __repr__(self): raise RuntimeError
loud = Loud()
"""
    async with session(server) as session_id, client_of(server) as client:
        await run(server, code, session_id=session_id)
        response = await client.get(f"/sessions/{session_id}/variables")
        first = await client.get(f"/sessions/{session_id}/variables", params={"limit": 1})

    listing = response.json()
    found = {item["name"]: item for item in listing["variables"]}
    assert listing["total"] == len(found)
    assert listing["truncated"] is False
    assert found["number"]["type"] == "int"
    assert found["number"]["preview"] == "3"
    assert found["array"]["shape"] == [3, 4]
    assert found["array"]["size"] == 96
    assert found["frame"]["type"] == "pandas.DataFrame"
    assert found["frame"]["shape"] == [2, 1]
    assert len(found["text"]["preview"]) < 200
    assert "loud" in found
    assert "_hidden" not in found
    assert len(first.json()["variables"]) == 1
    assert first.json()["truncated"] is True
    assert first.json()["total"] == listing["total"]


async def test_questions_touch_neither_count_nor_history_nor_transcript(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        before = await run(server, "'the last value'", session_id=session_id)
        await client.post(f"/sessions/{session_id}/complete", json={"code": "pri"})
        await client.post(f"/sessions/{session_id}/inspect", json={"code": "print"})
        await client.get(f"/sessions/{session_id}/variables")
        after = await run(server, "_, In[-2], len(In)", session_id=session_id)
        facts = await session_facts(server, session_id)

    assert after["execution_count"] == before["execution_count"] + 1
    assert after["result"] == "('the last value', \"'the last value'\", 3)"
    assert facts["executions"] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("complete", {}),
        ("complete", {"code": 1}),
        ("complete", {"code": "x", "cursor_pos": 2}),
        ("complete", {"code": "x", "cursor_pos": -1}),
        ("complete", {"code": "x", "unknown": 1}),
        ("complete", {"code": "x", "timeout": 0}),
        ("inspect", {"code": "x", "detail_level": 7}),
        ("input", {}),
        ("input", {"value": 1}),
        ("input", {"value": "x", "unknown": 1}),
    ],
    ids=str,
)
async def test_bad_questions_are_refused(server: Server, path: str, body: dict[str, Any]) -> None:
    async with client_of(server) as client:
        response = await client.post(f"/sessions/default/{path}", json=body)

    assert refusal(response, 400) in ("INVALID_REQUEST", "MISSING_PARAMETER")


async def test_nulls_mean_absent_in_questions_too(server: Server) -> None:
    async with client_of(server) as client:
        body = {"code": "print", "cursor_pos": None, "timeout": None, "detail_level": None}
        response = await client.post("/sessions/default/inspect", json=body)

    assert response.json()["found"] is True


async def test_input_meant_for_another_run_is_refused(server: Server) -> None:
    async with (
        session(server) as session_id,
        client_of(server) as client,
        streamed(server, "print(input())", session_id=session_id) as response,
    ):
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "input_request":
                path = f"/sessions/{session_id}/input"
                wrong = await client.post(path, json={"value": "x", "execution_id": "exec_1"})
                await client.post(path, json={"value": "right"})

    assert refusal(wrong, 409) == "NO_INPUT_AWAITED"
    assert text_of(items) == "right\n"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=5001", "timeout=nan", "timeout=0"])
async def test_bad_query_is_refused(server: Server, query: str) -> None:
    async with client_of(server) as client:
        response = await client.get(f"/sessions/default/variables?{query}")

    assert refusal(response, 400) == "INVALID_REQUEST"


async def test_question_to_a_busy_session_says_so_in_time(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(run(server, SLEEP, session_id=session_id))
        await until_busy(server, session_id)

        completed = await client.post(
            f"/sessions/{session_id}/complete", json={"code": "x", "timeout": 0.2}
        )
        listed = await client.get(f"/sessions/{session_id}/variables", params={"timeout": 0.2})
        await client.post(f"/sessions/{session_id}/interrupt")
        await running
        after = await client.post(f"/sessions/{session_id}/complete", json={"code": "pri"})

    assert refusal(completed, 409) == "SESSION_BUSY"
    assert completed.json()["details"] == {"state": "busy"}
    assert refusal(listed, 409) == "SESSION_BUSY"
    assert "print" in after.json()["matches"]
