"""Branches that are refused, and leave nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.runs import run, session, session_facts
from tests.servers import Server, Service, serving_in_process
from tests.sessions.branching import at_rest, branch, descriptors, health, post, processes, refusal

THREAD = """
import threading
stop = threading.Event()
thread = threading.Thread(target=stop.wait, args=(60,), name='the-watcher', daemon=True)
thread.start()
"""


TASK = """
import asyncio
ended = asyncio.Event()
task = asyncio.create_task(ended.wait(), name='the-poller')
await asyncio.sleep(0)
"""


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[Service]:
    """A server that starts each kernel by itself."""
    with serving_in_process(tmp_path, fork_server=False, pool_idle=0) as running:
        yield running


@pytest.fixture
def stock_server(tmp_path: Path) -> Iterator[Service]:
    """A server whose kernels are forked, and of stock classes."""
    with serving_in_process(tmp_path, lean_kernel=False, pool_idle=0, preload=()) as running:
        yield running


async def test_thread_that_runs_is_a_reason_to_refuse_unless_forced(server: Server) -> None:
    async with session(server) as parent:
        await run(server, f"{THREAD}\nkept = 1", session_id=parent)

        response = await post(server, f"/sessions/{parent}/branch")
        async with branch(server, parent, force=True) as child:
            in_child = await run(server, "kept, thread.is_alive()", session_id=child)
        in_parent = await run(server, "kept, thread.is_alive()", session_id=parent)
        await run(server, "stop.set(); thread.join()", session_id=parent)
        async with branch(server, parent):
            pass

    assert refusal(response, 409) == "BRANCH_REFUSED"
    assert "1 thread running (the-watcher)" in response.json()["error"]
    assert "force" in response.json()["error"]
    assert in_child["result"] == "(1, False)"
    assert in_parent["result"] == "(1, True)"


async def test_task_that_runs_is_a_reason_to_refuse_unless_forced(server: Server) -> None:
    async with session(server) as parent:
        await run(server, f"{TASK}\nkept = 1", session_id=parent)

        response = await post(server, f"/sessions/{parent}/branch")
        async with branch(server, parent, force=True) as child:
            code = "import gc; del task; gc.collect(); await asyncio.sleep(0.01); kept"
            in_child = await run(server, code, session_id=child)
            later = await run(server, "kept", session_id=child)
        code = "ended.set(); await task; task.done()"
        in_parent = await run(server, code, session_id=parent)
        async with branch(server, parent):
            pass

    assert refusal(response, 409) == "BRANCH_REFUSED"
    assert "1 asyncio task running (the-poller)" in response.json()["error"]
    assert in_child["outcome"] == "ok"
    assert in_child["result"] == later["result"] == "1"
    assert in_child["stderr"] == later["stderr"] == ""
    assert in_parent["result"] == "True"


async def test_kernel_that_was_started_by_itself_cannot_be_branched(plain_server: Service) -> None:
    async with session(plain_server) as parent:
        response = await post(plain_server, f"/sessions/{parent}/branch")
        forced = await post(plain_server, f"/sessions/{parent}/branch", force=True)
        after = await run(plain_server, "1 + 1", session_id=parent)
        facts = await health(plain_server)

    assert refusal(response, 409) == refusal(forced, 409) == "BRANCH_REFUSED"
    assert "started by itself" in response.json()["error"]
    assert after["result"] == "2"
    assert facts["features"]["branches"] is False
    assert facts["sessions"] == 1


async def test_kernel_of_stock_classes_cannot_be_branched(stock_server: Service) -> None:
    async with session(stock_server) as parent:
        response = await post(stock_server, f"/sessions/{parent}/branch")
        kept = await post(stock_server, f"/sessions/{parent}/checkpoints", force=True)
        after = await run(stock_server, "1 + 1", session_id=parent)
        facts = await health(stock_server)

    assert refusal(response, 409) == refusal(kept, 409) == "BRANCH_REFUSED"
    assert "stock" in response.json()["error"]
    assert "KERNELAGENT_LEAN_KERNEL" in response.json()["error"]
    assert after["result"] == "2"
    assert facts["fork_servers"]["python"]["kernel"] == "stock"
    assert facts["features"]["branches"] is False


async def test_wished_id_that_is_taken(server: Server) -> None:
    async with session(server, id="taken") as parent:
        response = await post(server, f"/sessions/{parent}/branch", id="taken")

    assert refusal(response, 409) == "SESSION_EXISTS"


@pytest.mark.parametrize(
    "wishes",
    [
        {"id": "default"},
        {"id": "default-python"},
        {"id": "a b"},
        {"id": ""},
        {"id": "x" * 65},
        {"id": 1},
        {"unknown": 1},
        {"language": "python"},
        {"name": "x" * 201},
        {"force": "perhaps"},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": 3601},
        {"timeout": "soon"},
    ],
    ids=str,
)
async def test_bad_wishes_are_refused_and_leave_nothing(
    server: Server, wishes: dict[str, Any]
) -> None:
    async with session(server) as parent:
        before = await health(server)
        response = await post(server, f"/sessions/{parent}/branch", **wishes)
        after = await health(server)

    assert refusal(response, 400) == "INVALID_REQUEST"
    assert before["sessions"] == after["sessions"]


async def test_unknown_session_cannot_be_branched(server: Server) -> None:
    response = await post(server, "/sessions/unknown/branch")

    assert refusal(response, 404) == "SESSION_NOT_FOUND"


async def test_failed_branches_leave_no_session_process_or_descriptor(server: Server) -> None:
    async with session(server) as parent:
        await run(server, THREAD, session_id=parent)
        pid = (await session_facts(server, parent))["pid"]
        wishes: list[dict[str, Any]] = [{}, {"id": "taken"}, {"id": "a b"}, {"timeout": 30}]
        async with session(server, id="taken") as taken:
            await run(server, "1", session_id=taken)
            before = await traces(server, pid)
            for _ in range(5):
                responses = await asyncio.gather(
                    *(post(server, f"/sessions/{parent}/branch", **each) for each in wishes)
                )
                assert all(response.is_client_error for response in responses)
            after = await traces(server, pid)

    assert after == before


async def traces(server: Server, pid: int) -> dict[str, Any]:
    """What a failure could leave behind."""

    async def read() -> dict[str, Any]:
        return {
            "sessions": (await health(server))["sessions"],
            "processes": processes(server),
            "descriptors of the server": descriptors(server.process.pid),
            "descriptors of the kernel": descriptors(pid),
            "threads of the kernel": psutil.Process(pid).num_threads(),
        }

    return await at_rest(server, read)
