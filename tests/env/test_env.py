"""The sandbox's variables: set by /env, seen by everything that runs next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hopx_ai import Sandbox

from tests.clients.control_plane import control_plane
from tests.installed import javascript_client
from tests.jobs.jobs import follow, get, output, post, refused, start, start_command
from tests.runs import client_of, run, session
from tests.servers import WITHOUT_KERNELS, Server, Service, serving, serving_in_process
from tests.waiting import PATIENCE

Message = dict[str, Any]

# Shows X, or that it is not set.
SHOW = {
    "python": "import os; print(os.environ.get('X', 'unset'))",
    "javascript": "console.log(process.env.X ?? 'unset')",
    "typescript": "console.log(process.env.X ?? 'unset')",
    "bash": 'echo "${X-unset}"',
    "go": 'import "os"\nx, ok := os.LookupEnv("X")\nif !ok { x = "unset" }\nfmt.Println(x)',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these tests' own: what they set would be seen by others."""
    root = tmp_path_factory.mktemp("env")
    with serving(root, LC_MINE="agent") as running:
        yield running


@pytest.fixture(autouse=True)
async def _nothing_is_set(server: Server) -> AsyncIterator[None]:
    yield
    await change(server, "DELETE")


async def change(server: Server, method: str, path: str = "/env", **variables: str) -> Message:
    """The variables after a change."""
    body = {"env_vars": variables, "merge": True} if method in ("PUT", "PATCH") else None
    async with client_of(server) as client:
        response = await client.request(method, path, json=body)
    assert response.status_code == 200, response.text
    answer: Message = response.json()
    return answer


async def shown(server: Service, language: str, **fields: Any) -> str:
    answer = await run(server, SHOW[language], language=language, timeout=60, **fields)
    assert answer["success"], answer["stderr"]
    return str(answer["stdout"])


async def test_put_replaces_and_patch_merges(server: Server) -> None:
    assert (await change(server, "PUT", A="1", B="2"))["env_vars"] == {"A": "1", "B": "2"}
    assert (await change(server, "PATCH", B="3", C=""))["env_vars"] == {"A": "1", "B": "3", "C": ""}
    answer = await change(server, "DELETE", "/env/A")
    assert answer["env_vars"] == {"B": "3", "C": ""}
    assert answer["count"] == 2
    assert answer["timestamp"].endswith("Z")
    assert (await change(server, "DELETE", "/env/A"))["env_vars"] == {"B": "3", "C": ""}
    assert (await change(server, "PUT"))["env_vars"] == {}
    await change(server, "PUT", A="1")
    assert (await change(server, "DELETE"))["env_vars"] == {}
    assert (await get(server, "/env"))["env_vars"] == {}


async def test_values_can_be_masked(server: Server) -> None:
    await change(server, "PUT", TOKEN="secret", NAME="x")
    answer = await get(server, "/env", mask=1)
    assert set(answer["env_vars"]) == {"TOKEN", "NAME"}
    assert "secret" not in json.dumps(answer)
    assert (await get(server, "/env"))["env_vars"]["TOKEN"] == "secret"
    # Sent back as they were shown they are kept.
    masked = answer["env_vars"]
    await change(server, "PUT", **{**masked, "NAME": "y"})
    assert (await get(server, "/env"))["env_vars"] == {"TOKEN": "secret", "NAME": "y"}
    await change(server, "PATCH", TOKEN=masked["TOKEN"], NEW=masked["TOKEN"])
    expected = {"TOKEN": "secret", "NAME": "y", "NEW": masked["TOKEN"]}
    assert (await get(server, "/env"))["env_vars"] == expected


@pytest.mark.parametrize("language", SHOW)
async def test_running_kernels_see_it_in_the_next_run(server: Server, language: str) -> None:
    assert await shown(server, language) == "unset\n"
    await change(server, "PATCH", X="one")
    assert await shown(server, language) == "one\n"
    assert await shown(server, language, env={"X": "mine"}) == "mine\n"
    assert await shown(server, language) == "one\n"
    await change(server, "PATCH", X="'\"$\n two")
    assert await shown(server, language) == "'\"$\n two\n"
    await change(server, "DELETE", "/env/X")
    assert await shown(server, language) == "unset\n"


@pytest.mark.parametrize("language", SHOW)
async def test_new_kernels_have_it(server: Server, language: str) -> None:
    await change(server, "PATCH", X="new")
    async with session(server, language=language) as session_id:
        assert await shown(server, language, session_id=session_id) == "new\n"
    assert await shown(server, language, isolated=True) == "new\n"
    job_id = await start(server, SHOW[language], language=language)
    assert output(await follow(server, job_id)) == b"new\n"


async def test_precedence(server: Server) -> None:
    show = "import os; print(os.environ.get('LC_MINE', 'unset'))"
    assert (await run(server, show))["stdout"] == "agent\n"
    await change(server, "PATCH", LC_MINE="sandbox")
    async with session(server, env={"LC_MINE": "session"}) as session_id:
        assert (await run(server, show, session_id=session_id))["stdout"] == "session\n"
        answer = await run(server, show, session_id=session_id, env={"LC_MINE": "request"})
        assert answer["stdout"] == "request\n"
        await change(server, "PATCH", LC_MINE="other")
        assert (await run(server, show, session_id=session_id))["stdout"] == "session\n"
        await change(server, "DELETE")
        assert (await run(server, show, session_id=session_id))["stdout"] == "session\n"
    # What the sandbox's had covered comes to light again.
    assert (await run(server, show))["stdout"] == "agent\n"


async def test_what_code_sets_itself_stays(server: Server) -> None:
    await change(server, "PATCH", X="sandbox", Y="1")
    async with session(server) as session_id:
        await run(server, "import os; os.environ['X'] = 'own'", session_id=session_id)
        show = "print(os.environ['X'], os.environ['Y'])"
        assert (await run(server, show, session_id=session_id))["stdout"] == "own 1\n"
        await change(server, "PATCH", Y="2")
        assert (await run(server, show, session_id=session_id))["stdout"] == "own 2\n"


async def test_commands_and_jobs_have_it(server: Server) -> None:
    await change(server, "PATCH", X="sandbox")
    answer = await post(server, "/commands/run", command='echo "$X"')
    assert answer["stdout"] == "sandbox\n"
    answer = await post(server, "/commands/run", command='echo "$X"', env={"X": "request"})
    assert answer["stdout"] == "request\n"
    assert output(await follow(server, await start_command(server, 'echo "$X"'))) == b"sandbox\n"


async def test_copies_of_sessions_know_what_they_have(server: Server) -> None:
    await change(server, "PATCH", X="before")
    async with session(server) as session_id, client_of(server) as client:
        assert await shown(server, "python", session_id=session_id) == "before\n"
        made = await client.post(f"/sessions/{session_id}/checkpoints", json={})
        branch = (await client.post(f"/sessions/{session_id}/branch", json={})).json()["id"]
        await change(server, "DELETE")
        assert await shown(server, "python", session_id=branch) == "unset\n"
        assert await shown(server, "python", session_id=session_id) == "unset\n"
        body = {"checkpoint_id": made.json()["id"]}
        await client.post(f"/sessions/{session_id}/restore", json=body)
        assert await shown(server, "python", session_id=session_id) == "unset\n"
        await client.delete(f"/sessions/{branch}")


async def test_a_cached_result_is_of_its_environment(server: Server) -> None:
    async def cached() -> tuple[str, bool]:
        answer = await run(server, SHOW["python"], isolated=True, cache=True)
        return str(answer["stdout"]), bool(answer["cached"])

    await change(server, "PATCH", X="one")
    assert await cached() == ("one\n", False)
    assert await cached() == ("one\n", True)
    await change(server, "PATCH", X="two")
    assert await cached() == ("two\n", False)
    await change(server, "PATCH", X="one")
    assert await cached() == ("one\n", True)


async def test_changes_at_the_same_time_are_whole(server: Server) -> None:
    await asyncio.gather(*(change(server, "PATCH", **{f"V{n}": str(n)}) for n in range(50)))
    variables = (await get(server, "/env"))["env_vars"]
    assert variables == {f"V{n}": str(n) for n in range(50)}


async def test_bad_variables_change_nothing(server: Server) -> None:
    await change(server, "PUT", A="1")
    async with client_of(server) as client:
        for variables, code in (
            ({"a=b": "1"}, "INVALID_REQUEST"),
            ({"": "1"}, "INVALID_REQUEST"),
            ({"a": "\0"}, "INVALID_REQUEST"),
            ({"a": 1}, "INVALID_REQUEST"),
            ({"a": "\ud800"}, "INVALID_REQUEST"),
            ({"\udc80": "b"}, "INVALID_REQUEST"),
            ({"a": "x" * 2**17}, "INVALID_REQUEST"),
            ({f"v{n}": "x" * 1000 for n in range(1500)}, "INVALID_REQUEST"),
            ({"KERNELAGENT_PROCESS": "1"}, "INVALID_REQUEST"),
        ):
            for method in ("PUT", "PATCH"):
                content = json.dumps({"env_vars": variables})
                response = await client.request(
                    method, "/env", content=content, headers={"Content-Type": "application/json"}
                )
                await refused(response, 400, code)
        await refused(await client.put("/env", json={}), 400, "MISSING_PARAMETER")
    assert (await get(server, "/env"))["env_vars"] == {"A": "1"}


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path, **WITHOUT_KERNELS) as first:
        await change(first, "PUT", X="kept")
        first.process.kill()
    with serving_in_process(tmp_path, pool_idle=0, fork_server=False) as second:
        assert (await get(second, "/env"))["env_vars"] == {"X": "kept"}
        assert await shown(second, "python") == "kept\n"


async def test_the_published_client(server: Server) -> None:
    await asyncio.to_thread(_drive_the_published_client, server)


def _drive_the_published_client(server: Server) -> None:
    sandbox: Any = Sandbox.debug(agent_url=server.url, jwt_token=server.token)
    sandbox.env.set_all({"A": "1"})
    sandbox.env.update({"B": "2"})
    sandbox.env.set("C", "3")
    assert sandbox.env.get_all() == {"A": "1", "B": "2", "C": "3"}
    assert sandbox.env.get("B") == "2"
    sandbox.env.delete("B")
    assert sandbox.env.get_all() == {"A": "1", "C": "3"}
    result = sandbox.run_code(
        "import os; print(os.environ['A'])", working_dir=str(server.workspace)
    )
    assert result.stdout == "1\n"
    result = sandbox.commands.run("echo $C; exit 3", working_dir=str(server.workspace))
    assert (result.stdout, result.exit_code) == ("3\n", 3)


async def test_the_published_asynchronous_client(server: Server) -> None:
    from hopx_ai import AsyncSandbox

    with control_plane(server) as base_url:
        sandbox: Any = await AsyncSandbox.connect("local", api_key="any", base_url=base_url)
        try:
            await sandbox.env.set_all({"A": "1"})
            await sandbox.env.update({"B": "2"})
            assert await sandbox.env.get_all() == {"A": "1", "B": "2"}
            await sandbox.env.delete("A")
            assert await sandbox.env.get_all() == {"B": "2"}
            await sandbox.env.set("C", "3")
            assert await sandbox.env.get("C") == "3"
            result = await sandbox.commands.run("echo $B", working_dir=str(server.workspace))
            assert (result.stdout, result.exit_code, result.success) == ("2\n", 0, True)
        finally:
            await sandbox._agent_client.close()
            await sandbox._client.close()


async def test_the_published_javascript_client(server: Server) -> None:
    script = javascript_client("env.mjs")
    with control_plane(server) as base_url:
        node = await asyncio.create_subprocess_exec(
            *script, base_url, str(server.workspace), stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await asyncio.wait_for(node.communicate(), PATIENCE)
    assert node.returncode == 0
    got = json.loads(printed.splitlines()[-1])
    assert got["all"] == {"A": "1", "B": "2", "C": "3"}
    assert got["rest"] == {"A": "1", "C": "3"}
    assert (got["command"]["stdout"], got["command"]["exit_code"]) == ("3\n", 4)
