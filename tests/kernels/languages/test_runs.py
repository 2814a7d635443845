"""Runs in every language alike: values, state, failures, and their counts."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.kernels.languages.snippets import Snippets
from tests.runs import client_of, run, session
from tests.servers import Server
from tests.waiting import PATIENCE


async def test_hello(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    answer = await run(server, snippets.hello, **own)
    assert (answer["success"], answer["exit_code"]) == (True, 0)
    assert (answer["stdout"], answer["stderr"]) == ("hello\n", "")
    assert answer["outcome"] == "ok"


async def test_the_last_value_is_the_result(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    if not snippets.value:
        return
    answer = await run(server, snippets.value, **own)
    assert (answer["result"], answer["stdout"]) == (snippets.shown, "")


async def test_state_lives_on(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    await run(server, snippets.remember, **own)
    assert (await run(server, snippets.recall, **own))["stdout"] == "42\n"


async def test_sessions_do_not_share_state(
    server: Server, snippets: Snippets, own: dict[str, Any], language: str
) -> None:
    await run(server, snippets.remember, **own)
    async with session(server, language=language) as other:
        answer = await run(server, snippets.recall, session_id=other, timeout=PATIENCE)
        assert "42" not in answer["stdout"]


async def test_a_failure_names_itself_and_the_line(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.fail, **own)
    assert (answer["success"], answer["outcome"], answer["state_lost"]) == (False, "error", False)
    assert answer["exit_code"] != 0
    assert answer["stdout"] == "before\n"
    assert answer["error"]["ename"] == snippets.error_name
    assert snippets.error_text in answer["stderr"]
    assert snippets.error_line in answer["stderr"]
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_what_does_not_parse_runs_not_at_all(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.nonsense, **own)
    assert (answer["success"], answer["outcome"]) == (False, "error")
    assert answer["stderr"].strip()
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_empty_code_is_fine(server: Server, own: dict[str, Any]) -> None:
    for code in ("", "\n\n"):
        answer = await run(server, code, **own)
        assert (answer["success"], answer["stdout"], answer["stderr"]) == (True, "", "")


async def test_an_isolated_run_has_a_kernel_of_its_own(
    server: Server, snippets: Snippets, language: str
) -> None:
    fields: dict[str, Any] = {"language": language, "isolated": True, "timeout": PATIENCE}
    await run(server, snippets.remember, **fields)
    assert "42" not in (await run(server, snippets.recall, **fields))["stdout"]
    assert (await run(server, snippets.hello, **fields))["stdout"] == "hello\n"


async def test_runs_are_counted_and_queued_in_order(
    server: Server, snippets: Snippets, fresh: dict[str, Any]
) -> None:
    answers = await asyncio.gather(*(run(server, snippets.hello, **fresh) for _ in range(4)))
    assert sorted(answer["execution_count"] for answer in answers) == [1, 2, 3, 4]


async def test_variables_are_listed(
    server: Server, snippets: Snippets, own: dict[str, Any], language: str
) -> None:
    await run(server, snippets.remember, **own)
    async with client_of(server) as client:
        response = await client.get(f"/sessions/{own['session_id']}/variables")
    assert response.status_code == 200, response.text
    names = [variable["name"] for variable in response.json()["variables"]]
    assert ("kept" if language == "typescript" else "x") in names
