"""A kernel that is installed for Jupyter is a language, without a word of code: R as the proof."""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest

from kernelagent.jupyter.languages import Languages
from tests.runs import client_of, messages, refused, run, session, streamed
from tests.servers import Server

pytestmark = pytest.mark.skipif(
    shutil.which("R") is None, reason="needs the system package r-cran-irkernel"
)


@pytest.mark.parametrize("name", ["r", "R", "ir"])
async def test_it_runs_under_all_its_names(server: Server, name: str) -> None:
    answer = await run(server, "x <- 6 * 7\ncat(x, '\\n')\nx", language=name, timeout=60)
    assert (answer["success"], answer["stdout"]) == (True, "42 \n")
    assert "[1] 42" in str(answer["rich_outputs"])
    assert answer["language"] == "r"


async def test_state_lives_on_and_errors_are_told(server: Server) -> None:
    async with session(server, language="r") as session_id:
        fields: dict[str, Any] = {"session_id": session_id, "timeout": 60}
        await run(server, "x <- 41", **fields)
        assert (await run(server, "cat(x + 1)", **fields))["stdout"] == "42"
        answer = await run(server, "cat('before\\n'); stop('of its own')", **fields)
        assert (answer["success"], answer["exit_code"], answer["stdout"]) == (False, 1, "before\n")
        assert "of its own" in answer["stderr"]


async def test_rich_output(server: Server) -> None:
    code = "data.frame(a = 1:2, b = c('x', 'y'))"
    answer = await run(server, code, path="/execute/rich", language="r", timeout=60)
    assert "<table" in str(answer["rich_outputs"])


@pytest.mark.alone
async def test_an_interrupt_keeps_the_state(server: Server) -> None:
    async with session(server, language="r") as session_id:
        fields: dict[str, Any] = {"session_id": session_id, "timeout": 60}
        await run(server, "x <- 41", **fields)
        async with (
            client_of(server) as client,
            streamed(server, "cat('begun\\n'); flush.console(); Sys.sleep(60)", **fields) as it,
        ):
            items = messages(it)
            async for item in items:
                if item["type"] == "stdout":
                    break
            started = time.monotonic()
            await client.post(f"/sessions/{session_id}/interrupt")
            rest = [item async for item in items if "outcome" in item]
        assert time.monotonic() - started < 5
        assert (rest[0]["outcome"], rest[0]["state_lost"]) == ("interrupted", False)
        assert (await run(server, "cat(x + 1)", **fields))["stdout"] == "42"


async def test_environment_and_directory_of_a_session(server: Server) -> None:
    folder = server.workspace / "for r"
    folder.mkdir(exist_ok=True)
    wanted = {"language": "r", "env": {"KA_TEST": "a'b\"c"}, "workdir": str(folder)}
    async with session(server, **wanted) as session_id:
        code = "cat(Sys.getenv('KA_TEST'), getwd(), sep = '\\n')"
        answer = await run(server, code, session_id=session_id, timeout=60)
        assert answer["stdout"].splitlines() == ["a'b\"c", str(folder)]


async def test_what_it_cannot_do_is_refused(server: Server) -> None:
    body = await refused(server, 400, "1", language="r", env={"A": "1"})
    assert "POST /sessions" in str(body)
    body = await refused(server, 400, "1", language="r", workdir=str(server.workspace))
    assert "POST /sessions" in str(body)


async def test_it_is_listed(server: Server) -> None:
    async with client_of(server) as client:
        facts = (await client.get("/info")).json()
        features = (await client.get("/health")).json()["features"]
    listed = {language["name"]: language for language in facts["languages"]}
    assert listed["r"]["aliases"] == ["ir"]
    assert listed["r"]["available"]
    assert "r" in features["languages"]
    assert [language.name for language in Languages.load() if language.name == "r"]
