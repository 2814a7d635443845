"""What holds for every language alike, over HTTP, on forked and on plain kernels."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tests.kernels.languages.snippets import Snippets
from tests.runs import (
    all_messages,
    client_of,
    messages,
    run,
    session,
    session_facts,
    streamed,
    until_busy,
)
from tests.servers import Server
from tests.waiting import until

# A machine that is busy with other things needs longer for a compiler.
PATIENCE = 60


@pytest.fixture
async def own(languages_server: Server, language: str) -> AsyncIterator[dict[str, Any]]:
    """The fields that send a run to a session of the test's own."""
    async with session(languages_server, language=language) as session_id:
        yield {"session_id": session_id, "language": language, "timeout": PATIENCE}


@pytest.fixture
def server(languages_server: Server) -> Server:
    """The server of these tests."""
    return languages_server


async def result_of(items: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The message that tells how the run has ended."""
    found = [item async for item in items if "outcome" in item]
    assert len(found) == 1
    return found[0]


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


async def test_stdout_and_stderr_are_apart(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.both, **own)
    assert (answer["stdout"], answer["stderr"]) == ("out\n", "err\n")


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
    await run(server, snippets.wait, **own | {"timeout": 2})
    answer = await run(server, snippets.wait, **own | {"timeout": 1.5})
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


async def test_environment_of_a_run_is_undone_exactly(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    awkward = "a\"b'c $HOME $(id) `id` \\ é\n2"
    answer = await run(server, snippets.environment, env={"KA_TEST": awkward}, **own)
    assert answer["stdout"] == f"[{awkward}]\n"
    assert (await run(server, snippets.environment, **own))["stdout"] == "[]\n"
    # After a failure too.
    await run(server, snippets.fail, env={"KA_TEST": "x"}, **own)
    assert (await run(server, snippets.environment, **own))["stdout"] == "[]\n"


async def test_directory_of_a_run_is_undone_exactly(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    folder = server.workspace / 'a b"c$d'
    folder.mkdir(exist_ok=True)
    before = (await run(server, snippets.directory, **own))["stdout"]
    answer = await run(server, snippets.directory, workdir=str(folder), **own)
    assert answer["stdout"] == f"{folder}\n"
    await run(server, snippets.fail, workdir=str(folder), **own)
    assert (await run(server, snippets.directory, **own))["stdout"] == before
    assert before == f"{server.workspace}\n"


async def test_environment_and_directory_of_a_session_stay(
    server: Server, snippets: Snippets, language: str
) -> None:
    folder = server.workspace / "session"
    (folder / "below").mkdir(parents=True, exist_ok=True)
    wanted = {"language": language, "env": {"KA_TEST": "kept"}, "workdir": str(folder)}
    async with session(server, **wanted) as session_id:
        fields: dict[str, Any] = {"session_id": session_id, "timeout": PATIENCE}
        for _ in range(2):
            assert (await run(server, snippets.environment, **fields))["stdout"] == "[kept]\n"
            assert (await run(server, snippets.directory, **fields))["stdout"] == f"{folder}\n"
            await run(server, snippets.environment, env={"KA_TEST": "other"}, **fields)
        if snippets.move:
            await run(server, snippets.move, **fields)
            # The run's own directory leads back to where the code has gone.
            await run(server, snippets.hello, workdir=str(server.workspace), **fields)
            answer = await run(server, snippets.directory, **fields)
            assert answer["stdout"] == f"{folder}/below\n"


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


async def test_output_is_streamed_as_it_comes(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    seen = []
    async with streamed(server, snippets.slowly, **own) as it:
        async for item in messages(it):
            if item["type"] == "stdout":
                seen.append((item["data"], time.monotonic()))
    assert [text for text, _ in seen] == ["a\n", "b\n"]
    assert seen[1][1] - seen[0][1] > 0.3


async def test_a_flood_is_complete(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    answer = await run(server, snippets.flood, **own)
    assert answer["stdout"] == "".join(f"{number}\n" for number in range(100_000))


async def test_excess_output_is_spilled_with_true_counts(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.flood, max_output_bytes=10_000, **own)
    whole = "".join(f"{number}\n" for number in range(100_000))
    assert len(answer["stdout"]) < 20_000
    assert answer["truncation"]["stdout_bytes"] == len(whole)


async def test_rich_output_is_in_order(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    items = await all_messages(server, snippets.html, **own)
    shown = [
        item["data"] if item["type"] == "stdout" else "html"
        for item in items
        if item["type"] in ("stdout", "rich")
    ]
    assert list(dict.fromkeys(shown)) == ["one\n", "html", "two\n"]
    answer = await run(server, snippets.html, path="/execute/rich", **own)
    assert "<b>bold</b>" in str(answer["rich_outputs"])


async def test_input_is_asked_for(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    text = ""
    async with client_of(server) as client, streamed(server, snippets.ask, **own) as it:
        async for item in messages(it):
            if item["type"] == "input_request":
                response = await client.post(
                    f"/sessions/{own['session_id']}/input", json={"value": "sesame é"}
                )
                assert response.is_success, response.text
            elif item["type"] == "stdout":
                text += item["data"]
    assert text == "[sesame é]\n"


async def test_input_that_nobody_can_give_is_at_its_end(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.ask, **own | {"timeout": PATIENCE})
    assert answer["outcome"] in ("ok", "error")
    assert "sesame" not in answer["stdout"]


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


async def test_text_of_all_scripts(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    assert (await run(server, snippets.unicode, **own))["stdout"] == "žluť 日本 🎉\n"


async def test_a_restart_loses_the_state_and_nothing_else(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    await run(server, snippets.remember, **own)
    async with client_of(server) as client:
        response = await client.post(f"/sessions/{own['session_id']}/restart")
        assert response.is_success
    assert "42" not in (await run(server, snippets.recall, **own))["stdout"]
    assert (await run(server, snippets.hello, **own))["stdout"] == "hello\n"


async def test_an_isolated_run_has_a_kernel_of_its_own(
    server: Server, snippets: Snippets, language: str
) -> None:
    fields: dict[str, Any] = {"language": language, "isolated": True, "timeout": PATIENCE}
    await run(server, snippets.remember, **fields)
    assert "42" not in (await run(server, snippets.recall, **fields))["stdout"]
    assert (await run(server, snippets.hello, **fields))["stdout"] == "hello\n"


async def test_runs_are_counted_and_queued_in_order(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answers = await asyncio.gather(*(run(server, snippets.hello, **own) for _ in range(4)))
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


async def test_nothing_is_left_of_a_session(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    facts = await session_facts(server, own["session_id"])
    task = asyncio.create_task(run(server, snippets.wait, **own))
    await until_busy(server, own["session_id"])
    family = [psutil.Process(facts["pid"])]
    family += family[0].children(recursive=True)
    async with client_of(server) as client:
        await client.delete(f"/sessions/{own['session_id']}")
    assert (await task)["outcome"] == "cancelled"

    async def gone() -> bool:
        return not any(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family
        )

    await until(gone)
