"""Environment and directory of runs and sessions, in every language alike."""

from __future__ import annotations

from typing import Any

from tests.kernels.languages.snippets import Snippets
from tests.runs import run, session
from tests.servers import Server
from tests.waiting import PATIENCE


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
