"""Sessions that are interrupted, restarted, lost, or idle for too long."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server
from tests.sessions.branching import SLEEP
from tests.waiting import until

# Interrupted, restarted, lost


async def test_interrupt_ends_the_run_and_keeps_the_state(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "kept = 1", session_id=session_id)
        running = asyncio.create_task(
            run(server, "print(1)\nimport time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)

        response = await client.post(f"/sessions/{session_id}/interrupt")
        answer = await running
        after = await run(server, "kept", session_id=session_id)

    assert response.json()["interrupted"] is True
    assert answer["outcome"] == "interrupted"
    assert answer["exit_code"] == 130
    assert answer["success"] is False
    assert answer["stdout"] in ("1\n", "")
    assert answer["state_lost"] is False
    assert after["result"] == "1"


async def test_interrupt_of_an_idle_session_does_nothing(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        response = await client.post(f"/sessions/{session_id}/interrupt")
        after = await run(server, "1 + 1", session_id=session_id)

    assert response.json()["interrupted"] is False
    assert after["result"] == "2"


async def test_interrupt_leaves_waiting_runs_in_the_queue(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(run(server, SLEEP, session_id=session_id))
        await until_busy(server, session_id)
        waiting = asyncio.create_task(run(server, "1 + 1", session_id=session_id))
        await until_busy(server, session_id, queued=1)

        await client.post(f"/sessions/{session_id}/interrupt")

        assert (await running)["outcome"] == "interrupted"
        assert (await waiting)["result"] == "2"


async def test_restart_gives_a_fresh_kernel_under_the_same_id(server: Server) -> None:
    async with session(server, env={"OWN": "1"}) as session_id, client_of(server) as client:
        before = await session_facts(server, session_id)
        await run(server, "gone = 1", session_id=session_id)

        response = await client.post(f"/sessions/{session_id}/restart")
        answer = await run(
            server, "import os; 'gone' in dir(), os.environ['OWN']", session_id=session_id
        )

    facts = response.json()
    assert response.status_code == 200
    assert facts["id"] == session_id
    assert facts["pid"] != before["pid"]
    assert facts["generation"] == 2
    assert facts["state"] == "idle"
    assert answer["result"] == "(False, '1')"
    assert answer["execution_count"] == 1
    assert answer["notes"] == []


async def test_restart_cancels_what_runs_and_waits(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(run(server, SLEEP, session_id=session_id))
        await until_busy(server, session_id)
        waiting = asyncio.create_task(run(server, "1 + 1", session_id=session_id))
        await until_busy(server, session_id, queued=1)

        response = await client.post(f"/sessions/{session_id}/restart")
        answers = await asyncio.gather(running, waiting)

    assert response.status_code == 200
    assert [answer["outcome"] for answer in answers] == ["cancelled", "cancelled"]
    assert all("restarted" in answer["stderr"] for answer in answers)


async def test_kernel_killed_between_runs_is_replaced_and_the_answer_says_so(
    server: Server,
) -> None:
    async with session(server) as session_id:
        await run(server, "before = 1", session_id=session_id)
        pid = (await session_facts(server, session_id))["pid"]
        os.kill(pid, signal.SIGKILL)

        async def is_noticed() -> bool:
            return not psutil.pid_exists(pid)

        await until(is_noticed)

        answer = await run(server, "'before' in dir()", session_id=session_id)
        next_answer = await run(server, "1", session_id=session_id)

    assert answer["success"] is True
    assert answer["result"] == "False"
    (note,) = answer["notes"]
    assert "SIGKILL" in note
    assert "fresh state" in note
    assert next_answer["notes"] == []


# Idle


async def test_idle_session_is_closed(server: Server) -> None:
    async with session(server, idle_timeout=0.1) as session_id, client_of(server) as client:

        async def is_gone() -> bool:
            return (await client.get(f"/sessions/{session_id}")).status_code == 404

        await until(is_gone)


async def test_session_that_works_or_may_idle_is_not_closed(server: Server) -> None:
    async with (
        session(server, idle_timeout=0.1) as gone,
        session(server, idle_timeout=0.1) as working,
        session(server, idle_timeout=0) as staying,
        client_of(server) as client,
    ):
        running = asyncio.create_task(run(server, SLEEP, session_id=working, timeout=90))

        async def is_gone() -> bool:
            return (await client.get(f"/sessions/{gone}")).status_code == 404

        await until(is_gone)
        worked = await session_facts(server, working)
        stayed = await session_facts(server, staying)
        await client.post(f"/sessions/{working}/interrupt")
        await running

    assert worked["state"] == "busy"
    assert stayed["state"] == "idle"
    assert stayed["idle_timeout"] == 0
