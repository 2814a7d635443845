"""When a branch is made: its turn in the queue of its session."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server
from tests.sessions.branching import SLEEP, branch, delete, health, post, refusal
from tests.waiting import until


def waiting(path: Path) -> str:
    """Code that waits until `path` exists."""
    return f"import pathlib, time\nwhile not pathlib.Path({str(path)!r}).exists(): time.sleep(0.01)"


async def test_branch_has_what_was_submitted_before_it_and_nothing_of_what_came_after(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as parent:
        await run(server, "done = []", session_id=parent)
        code = f"{waiting(tmp_path / 'go')}\ndone.append({{}})"
        work = [asyncio.create_task(run(server, code.format(1), session_id=parent))]
        await until_busy(server, parent)
        work.append(asyncio.create_task(run(server, code.format(2), session_id=parent)))
        await until_busy(server, parent, queued=1)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch"))
        await until_busy(server, parent, queued=2)
        work.append(asyncio.create_task(run(server, code.format(3), session_id=parent)))
        await until_busy(server, parent, queued=3)

        (tmp_path / "go").touch()
        child = (await branching).json()["id"]
        answers = await asyncio.gather(*work)
        in_child = await run(server, "done", session_id=child)
        in_parent = await run(server, "done", session_id=parent)
        await delete(server, child)

    assert [answer["outcome"] for answer in answers] == ["ok"] * 3
    assert in_child["result"] == "[1, 2]"
    assert in_parent["result"] == "[1, 2, 3]"


async def test_branch_whose_turn_does_not_come_is_given_up(server: Server) -> None:
    async with session(server) as parent:
        running = asyncio.create_task(run(server, SLEEP, session_id=parent))
        await until_busy(server, parent)

        response = await post(server, f"/sessions/{parent}/branch", id="late", timeout=0.2)
        left = await health(server)
        facts = await session_facts(server, parent)
        again = await post(server, f"/sessions/{parent}/branch", id="late", timeout=0.2)
        await post(server, f"/sessions/{parent}/interrupt")
        answer = await running
        async with branch(server, parent, id="late", timeout=30) as child:
            assert child == "late"

    assert refusal(response, 409) == refusal(again, 409) == "QUEUE_TIMEOUT"
    assert response.json()["details"] == {"timeout": 0.2}
    assert left["sessions"] >= 1
    assert (facts["state"], facts["queued"]) == ("busy", 0)
    assert answer["outcome"] == "interrupted"


async def test_deletion_of_the_parent_ends_the_wait_for_its_turn(server: Server) -> None:
    async with session(server) as parent:
        running = asyncio.create_task(run(server, SLEEP, session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch", id="never"))
        await until_busy(server, parent, queued=1)

        await delete(server, parent)
        response = await branching
        await running

    assert refusal(response, 409) == "SESSION_CLOSED"
    async with client_of(server) as client:
        assert refusal(await client.get("/sessions/never"), 404) == "SESSION_NOT_FOUND"


async def test_run_that_comes_before_its_branch_waits_for_it(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as parent:
        code = f"{waiting(tmp_path / 'go')}\nkept = 1"
        running = asyncio.create_task(run(server, code, session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch", id="early"))
        await until_busy(server, parent, queued=1)
        early = asyncio.create_task(run(server, "kept", session_id="early"))
        await until_busy(server, "early")
        asked = await post(server, "/sessions/early/complete", code="k", timeout=0.1)

        (tmp_path / "go").touch()
        made = (await branching).json()
        answer = await early
        await running
        await delete(server, "early")

    assert refusal(asked, 409) == "SESSION_BUSY"
    assert (answer["outcome"], answer["result"], answer["notes"]) == ("ok", "1", [])
    assert made["generation"] == 1


async def test_run_that_comes_before_a_branch_that_fails_is_told(server: Server) -> None:
    async with session(server) as parent, client_of(server) as client:
        running = asyncio.create_task(run(server, SLEEP, session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch", id="never"))
        await until_busy(server, parent, queued=1)
        early = asyncio.create_task(
            client.post("/execute", json={"code": "kept", "session_id": "never"})
        )
        await until_busy(server, "never")
        await delete(server, parent)
        refused = await branching
        answer = await early
        await running

    assert refusal(refused, 409) == refusal(answer, 409) == "SESSION_CLOSED"


async def test_branch_that_waits_longer_than_sessions_may_idle_is_made(
    server: Server, tmp_path: Path
) -> None:
    async with (
        session(server, idle_timeout=0.1) as parent,
        session(server, idle_timeout=0.1) as idle,
    ):
        code = waiting(tmp_path / "go")
        running = asyncio.create_task(run(server, code, session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch"))
        await until_busy(server, parent, queued=1)

        async def has_swept() -> bool:
            async with client_of(server) as client:
                return (await client.get(f"/sessions/{idle}")).status_code == 404

        await until(has_swept)
        (tmp_path / "go").touch()
        response = await branching
        await running
        await delete(server, response.json().get("id", ""))

    assert response.status_code == 201, response.text
