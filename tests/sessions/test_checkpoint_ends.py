"""How checkpoints end: deleted, with their session, killed; nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil

from tests.runs import client_of, run, session, session_facts
from tests.servers import Server, start_server
from tests.sessions.branching import (
    at_rest,
    branch,
    checkpoint,
    checkpoints,
    delete,
    descriptors,
    has_ended,
    health,
    post,
    processes,
    refusal,
    restore,
    settle,
    until_ended,
)
from tests.waiting import until


async def parked(server: Server) -> set[int]:
    """The processes that keep states: children of the fork server that have but one thread."""
    await settle(server)
    pid = (await health(server))["fork_servers"]["python"]["pid"]
    children = [child for child in psutil.Process(pid).children() if not has_ended(child.pid)]
    return {child.pid for child in children if child.num_threads() == 1}


async def keep(server: Server, session_id: str) -> tuple[str, int]:
    """A new checkpoint and its process."""
    before = await parked(server)
    kept = await checkpoint(server, session_id)

    async def is_there() -> bool:
        return len(await parked(server) - before) == 1

    await until(is_there)
    (pid,) = await parked(server) - before
    return kept, pid


# Given up


async def test_deletion_leaves_the_sessions_that_were_restored_alone(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "kept = 1", session_id=session_id)
        kept, pid = await keep(server, session_id)
        await restore(server, session_id, kept)
        async with branch(server, session_id) as child:
            path = f"/sessions/{session_id}/checkpoints/{kept}"
            response = await client.delete(path)
            again = await client.delete(path)
            restored = await post(server, f"/sessions/{session_id}/restore", checkpoint_id=kept)
            await until_ended(pid)
            left = await checkpoints(server, session_id)
            answers = [await run(server, "kept", session_id=each) for each in (session_id, child)]

    assert response.status_code == 200
    assert response.json() == {
        "id": session_id,
        "message": "the checkpoint was deleted",
        "success": True,
    }
    assert refusal(again, 404) == refusal(restored, 404) == "CHECKPOINT_NOT_FOUND"
    assert left == []
    assert [(each["result"], each["notes"]) for each in answers] == [("1", [])] * 2


async def test_deletion_of_a_session_ends_its_checkpoints_alone(server: Server) -> None:
    async with session(server) as staying, session(server) as going:
        await run(server, "1", session_id=staying)
        await run(server, "1", session_id=going)
        kept, of_staying = await keep(server, staying)
        of_going = [(await keep(server, going))[1] for _ in range(2)]
        await delete(server, going)
        await until_ended(*of_going)
        facts = await restore(server, staying, kept)

        assert not has_ended(of_staying)
        assert facts["state"] == "idle"
    await until_ended(of_staying)


async def test_expiry_of_a_session_ends_its_checkpoints(server: Server) -> None:
    before = await parked(server)
    async with session(server, idle_timeout=1) as session_id, client_of(server) as client:
        await run(server, "1", session_id=session_id)
        await checkpoint(server, session_id)

        async def is_gone() -> bool:
            gone = (await client.get(f"/sessions/{session_id}")).status_code == 404
            return gone and await parked(server) == before

        await until(is_gone)


async def test_checkpoint_whose_process_was_killed_is_told_and_gone(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "kept = 1", session_id=session_id)
        staying = await checkpoint(server, session_id)
        lost, pid = await keep(server, session_id)
        os.kill(pid, signal.SIGKILL)

        async def is_noticed() -> bool:
            return len(await checkpoints(server, session_id)) == 1

        await until(is_noticed)
        response = await post(server, f"/sessions/{session_id}/restore", checkpoint_id=lost)
        answer = await run(server, "kept", session_id=session_id)
        after = await run(server, "kept", session_id=session_id)
        await restore(server, session_id, staying)

    assert refusal(response, 404) == "CHECKPOINT_NOT_FOUND"
    (note,) = answer["notes"]
    assert lost in note
    assert "SIGKILL" in note
    assert answer["result"] == "1"
    assert after["notes"] == []


# Nothing is left


async def test_checkpoints_end_with_the_service(tmp_path: Path) -> None:
    running = start_server(tmp_path, KERNELAGENT_PRELOAD="")
    try:
        made = (await post(running, "/sessions")).json()
        await run(running, "1", session_id=made["id"])
        for _ in range(2):
            await restore(running, made["id"], await checkpoint(running, made["id"]))
        kept = await parked(running)
        below = processes(running)
    finally:
        code = await asyncio.to_thread(running.stop)

    assert len(kept) == 2
    assert kept < below
    assert code == 0
    await until_ended(*below)


async def test_twenty_rounds_leave_nothing(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "kept = 1", session_id=session_id)

        async def go_round() -> None:
            kept = await checkpoint(server, session_id)
            await restore(server, session_id, kept)
            async with branch(server, session_id) as child:
                assert (await run(server, "kept", session_id=child))["result"] == "1"
            await client.delete(f"/sessions/{session_id}/checkpoints/{kept}")

        await go_round()
        before = await traces(server, session_id)
        for _ in range(20):
            await go_round()
        after = await traces(server, session_id)
        answer = await run(server, "kept", session_id=session_id)

    assert answer["result"] == "1"
    assert after == before


async def test_checkpoint_whose_process_was_killed_leaves_nothing(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "1", session_id=session_id)
        before = await traces(server, session_id)
        for _ in range(2):
            _, pid = await keep(server, session_id)
            os.kill(pid, signal.SIGKILL)
            await until_ended(pid)
        after = await traces(server, session_id)

    assert after == before


async def traces(server: Server, session_id: str) -> dict[str, Any]:
    """What is left of sessions and checkpoints, as numbers."""
    kernel = (await session_facts(server, session_id))["pid"]

    async def read() -> dict[str, Any]:
        facts = await health(server)
        fork_server = facts["fork_servers"]["python"]["pid"]
        return {
            "sessions": facts["sessions"],
            "kernels": facts["pools"]["python"]["leased"],
            "checkpoints": facts["memory"]["checkpoints"]["count"],
            "processes": len(processes(server)),
            "descriptors of the server": descriptors(server.process.pid),
            "descriptors of the fork server": descriptors(fork_server),
            "descriptors of the kernel": descriptors(kernel),
            "threads of the kernel": psutil.Process(kernel).num_threads(),
            "memory groups": memory_groups(kernel),
        }

    return await at_rest(server, read)


def memory_groups(pid: int) -> int:
    """How many memory groups there are beside the one that a kernel is in; 0 if it is in none."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "/kernelagent-" in path:
            hierarchy = Path("/sys/fs/cgroup") / controllers
            return len([each for each in (hierarchy / path[1:]).parent.iterdir() if each.is_dir()])
    return 0
