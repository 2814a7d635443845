"""What runs in a branch: output, interrupts, time limits, input, its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
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
from tests.sessions.branching import SLEEP, branch, post, refusal


async def test_output_of_children_and_of_descriptors(server: Server) -> None:
    code = """
import os, subprocess, sys
print('printed', flush=True)
os.write(1, b'written\\n')
os.system('echo by a shell')
subprocess.run(['sh', '-c', 'echo by a child; echo wrong >&2'])
print(subprocess.check_output(['echo', 'captured'], text=True), end='')
"""
    async with session(server) as parent, branch(server, parent) as child:
        answer = await run(server, code, session_id=child)

    lines = ["printed", "written", "by a shell", "by a child", "captured"]
    assert sorted(answer["stdout"].split("\n")) == sorted([*lines, ""])
    assert answer["stderr"] == "wrong\n"


async def test_await_in_a_branch(server: Server) -> None:
    code = "import asyncio\nawait asyncio.sleep(0.01)\nawait asyncio.to_thread(lambda: 6 * 7)"
    async with session(server) as parent:
        await run(server, "import asyncio; await asyncio.sleep(0)", session_id=parent)
        async with branch(server, parent) as child:
            answer = await run(server, code, session_id=child)
            in_parent = await run(server, code, session_id=parent)

    assert answer["result"] == in_parent["result"] == "42"


WAITING = [
    "import time; time.sleep(60)",
    "import asyncio; await asyncio.sleep(60)",
    "while True: pass",
    "import subprocess; subprocess.run(['sleep', '60'])",
]


@pytest.mark.parametrize("code", WAITING)
async def test_interrupt_of_a_branch_ends_its_run_alone(server: Server, code: str) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            in_child = asyncio.create_task(run(server, code, session_id=child))
            in_parent = asyncio.create_task(run(server, code, session_id=parent))
            await until_busy(server, child)
            await until_busy(server, parent)

            response = await post(server, f"/sessions/{child}/interrupt")
            answer = await in_child
            after = await run(server, "kept", session_id=child)
            still_busy = (await session_facts(server, parent))["state"]
            await post(server, f"/sessions/{parent}/interrupt")
            ended = await in_parent

    assert response.json()["interrupted"] is True
    assert answer["outcome"] == ended["outcome"] == "interrupted"
    assert answer["state_lost"] is False
    assert after["result"] == "1"
    assert still_busy == "busy"


async def test_time_limit_in_a_branch_leaves_its_state(server: Server) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            answer = await run(server, SLEEP, session_id=child, timeout=0.2)
            after = await run(server, "kept", session_id=child)

    assert answer["outcome"] == "timeout"
    assert answer["exit_code"] == 124
    assert answer["state_lost"] is False
    assert after["result"] == "1"


async def test_branch_asks_for_input_over_its_stream(server: Server) -> None:
    async with (
        session(server) as parent,
        branch(server, parent) as child,
        streamed(server, "print('Hello', input('Name? '))", session_id=child) as response,
    ):
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "input_request":
                wrong = await post(server, f"/sessions/{parent}/input", value="parent")
                await post(server, f"/sessions/{child}/input", value="Ada")

    assert refusal(wrong, 409) == "NO_INPUT_AWAITED"
    assert text_of(items) == "Hello Ada\n"


async def test_branch_is_asked_for_variables_completions_and_documentation(
    server: Server,
) -> None:
    async with session(server) as parent, client_of(server) as client:
        await run(server, "elephant = 1\ndef f(): 'What f does.'", session_id=parent)
        async with branch(server, parent) as child:
            await run(server, "elegant = 2", session_id=child)
            listed = (await client.get(f"/sessions/{child}/variables")).json()
            of_parent = (await client.get(f"/sessions/{parent}/variables")).json()
            completed = await post(server, f"/sessions/{child}/complete", code="ele")
            inspected = await post(server, f"/sessions/{child}/inspect", code="f")

    assert [item["name"] for item in listed["variables"]] == ["elephant", "f", "elegant"]
    assert [item["name"] for item in of_parent["variables"]] == ["elephant", "f"]
    assert completed.json()["matches"] == ["elegant", "elephant"]
    assert "What f does." in inspected.json()["data"]["text/plain"]


@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [
        ("os._exit(3)", 3, "exit code 3"),
        ("os.kill(os.getpid(), 9)", 137, "SIGKILL"),
        ("import ctypes, time; time.sleep(0.1); ctypes.string_at(0)", 139, "Segmentation fault"),
    ],
)
async def test_end_of_a_branch_is_told_with_its_status(
    server: Server, code: str, exit_code: int, cause: str
) -> None:
    async with session(server) as parent:
        await run(server, "import os; kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            answer = await run(server, f"print('partial')\n{code}", session_id=child)
            after = await run(server, "'kept' in dir()", session_id=child)
            of_parent = await run(server, "kept", session_id=parent)

    assert answer["outcome"] == "kernel_died"
    assert answer["exit_code"] == exit_code
    assert answer["stdout"] == "partial\n"
    assert cause in answer["stderr"]
    assert answer["state_lost"] is True
    assert after["result"] == "False"
    assert of_parent["result"] == "1"


async def test_fresh_kernel_of_a_branch_has_the_environment_and_directory_of_its_session(
    server: Server, tmp_path: Path
) -> None:
    look = "import os; os.environ.get('OWN'), os.path.basename(os.getcwd())"
    async with (
        session(server, env={"OWN": "1"}, workdir=str(tmp_path)) as parent,
        branch(server, parent) as child,
    ):
        before = await run(server, look, session_id=child)
        await run(server, "os._exit(1)", session_id=child)
        after = await run(server, look, session_id=child)
        facts = await session_facts(server, child)

    assert before["result"] == after["result"] == f"('1', {tmp_path.name!r})"
    assert facts["workdir"] == str(tmp_path)
    assert facts["generation"] == 2


async def test_environment_and_directory_of_a_run_are_undone_in_a_branch_too(
    server: Server, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    look = (
        "import os; os.environ.get('OWN'), os.environ.get('GIVEN'), os.path.basename(os.getcwd())"
    )
    scope: dict[str, Any] = {"env": {"OWN": "request", "GIVEN": "1"}, "workdir": str(inner)}
    async with session(server, env={"OWN": "session"}, workdir=str(tmp_path)) as parent:
        await run(server, look, session_id=parent, **scope)
        async with branch(server, parent) as child:
            first = await run(server, look, session_id=child)
            during = await run(server, look, session_id=child, **scope)
            after = await run(server, look, session_id=child)

    outside = f"('session', None, {tmp_path.name!r})"
    assert first["result"] == after["result"] == outside
    assert during["result"] == "('request', '1', 'inner')"
