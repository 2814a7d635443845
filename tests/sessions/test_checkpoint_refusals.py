"""Checkpoints: their turn in the queue, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.runs import client_of, run, session, until_busy
from tests.servers import Server
from tests.sessions.branching import SLEEP, branch, checkpoint, checkpoints, post, refusal, restore


async def test_checkpoint_has_what_was_submitted_before_it(server: Server, tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
        "done.append({})"
    )
    async with session(server) as session_id:
        await run(server, "done = []", session_id=session_id)
        first = asyncio.create_task(run(server, code.format(1), session_id=session_id))
        await until_busy(server, session_id)
        keeping = asyncio.create_task(checkpoint(server, session_id))
        await until_busy(server, session_id, queued=1)
        second = asyncio.create_task(run(server, code.format(2), session_id=session_id))
        await until_busy(server, session_id, queued=2)
        (tmp_path / "go").touch()
        kept = await keeping
        await asyncio.gather(first, second)
        before = await run(server, "done", session_id=session_id)
        await restore(server, session_id, kept)
        after = await run(server, "done", session_id=session_id)

    assert before["result"] == "[1, 2]"
    assert after["result"] == "[1]"


async def test_checkpoint_whose_turn_does_not_come_is_given_up(server: Server) -> None:
    async with session(server) as session_id:
        running = asyncio.create_task(run(server, SLEEP, session_id=session_id))
        await until_busy(server, session_id)
        response = await post(server, f"/sessions/{session_id}/checkpoints", timeout=0.2)
        kept = await checkpoints(server, session_id)
        await post(server, f"/sessions/{session_id}/interrupt")
        answer = await running

    assert refusal(response, 409) == "QUEUE_TIMEOUT"
    assert kept == []
    assert answer["outcome"] == "interrupted"


async def test_thread_that_runs_is_a_reason_to_refuse_unless_forced(server: Server) -> None:
    code = """
import threading
stop = threading.Event()
thread = threading.Thread(target=stop.wait, name='the-watcher', daemon=True); thread.start()
"""
    async with session(server) as session_id:
        await run(server, code, session_id=session_id)
        response = await post(server, f"/sessions/{session_id}/checkpoints")
        kept = await checkpoint(server, session_id, force=True)
        before = await run(server, "thread.is_alive()", session_id=session_id)
        await restore(server, session_id, kept)
        after = await run(server, "thread.is_alive()", session_id=session_id)

    assert refusal(response, 409) == "BRANCH_REFUSED"
    assert "the-watcher" in response.json()["error"]
    assert before["result"] == "True"
    assert after["result"] == "False"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("checkpoints", {"unknown": 1}),
        ("checkpoints", {"id": "mine"}),
        ("checkpoints", {"name": "x" * 201}),
        ("checkpoints", {"timeout": 0}),
        ("restore", {}),
        ("restore", {"checkpoint_id": 1}),
        ("restore", {"checkpoint_id": "x", "unknown": 1}),
    ],
    ids=str,
)
async def test_bad_requests_are_refused_and_keep_nothing(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    async with session(server) as session_id:
        response = await post(server, f"/sessions/{session_id}/{path}", **body)
        kept = await checkpoints(server, session_id)

    assert refusal(response, 400) in ("INVALID_REQUEST", "MISSING_PARAMETER")
    assert kept == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "checkpoints", {}),
        ("GET", "checkpoints", None),
        ("DELETE", "checkpoints/x", None),
        ("POST", "restore", {"checkpoint_id": "x"}),
    ],
    ids=str,
)
async def test_unknown_session_is_404_on_every_route(
    server: Server, method: str, path: str, body: dict[str, Any] | None
) -> None:
    async with client_of(server) as client:
        response = await client.request(method, f"/sessions/unknown/{path}", json=body)

    assert refusal(response, 404) == "SESSION_NOT_FOUND"


async def test_checkpoint_of_another_session_is_not_found(server: Server) -> None:
    async with session(server) as owner, branch(server, owner) as other:
        kept = await checkpoint(server, owner)
        async with client_of(server) as client:
            restored = await post(server, f"/sessions/{other}/restore", checkpoint_id=kept)
            deleted = await client.delete(f"/sessions/{other}/checkpoints/{kept}")
            unknown = await post(server, f"/sessions/{owner}/restore", checkpoint_id="x" * 500)
        of_other = await checkpoints(server, other)
        of_owner = await checkpoints(server, owner)

    for response in (restored, deleted, unknown):
        assert refusal(response, 404) == "CHECKPOINT_NOT_FOUND"
    assert restored.json()["details"] == {"checkpoint_id": kept}
    assert unknown.json()["details"] == {"checkpoint_id": "x" * 64}
    assert of_other == []
    assert [each["id"] for each in of_owner] == [kept]


async def test_restore_that_fails_leaves_everything_as_it_was(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "kept = 1", session_id=session_id)
        running = asyncio.create_task(
            run(server, "import time; time.sleep(0.3); kept", session_id=session_id)
        )
        await until_busy(server, session_id)
        response = await post(server, f"/sessions/{session_id}/restore", checkpoint_id="none")
        answer = await running

    assert refusal(response, 404) == "CHECKPOINT_NOT_FOUND"
    assert (answer["outcome"], answer["result"]) == ("ok", "1")
