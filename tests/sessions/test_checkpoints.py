"""/sessions/{id}/checkpoints and /restore: states that are kept, and gone back to."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server
from tests.sessions.branching import (
    SLEEP,
    branch,
    checkpoint,
    checkpoints,
    post,
    refusal,
    restore,
    until_ended,
)

MIB = 2**20


async def test_checkpoint_is_told_in_full(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "1", session_id=session_id)
        await run(server, "1", session_id=session_id)
        response = await post(server, f"/sessions/{session_id}/checkpoints", name="A label")
        made = response.json()
        (listed,) = await checkpoints(server, session_id)
        facts = await session_facts(server, session_id)
        async with client_of(server) as client:
            in_jupyter = (await client.get("/jupyter/sessions")).json()["sessions"]

    assert response.status_code == 201
    assert len(made["id"]) == 12
    assert made["session_id"] == session_id
    assert made["name"] == "A label"
    assert made["execution_count"] == 2
    assert MIB < made["memory"] < 200 * MIB
    assert made["created_at"].endswith("Z")
    assert {**listed, "memory": 0} == {**made, "memory": 0}
    assert listed["memory"] > MIB
    assert facts["checkpoints"] == 1
    assert [each["checkpoints"] for each in in_jupyter if each["id"] == session_id] == [1]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"name": null, "timeout": null}'])
async def test_checkpoint_needs_no_wishes(server: Server, content: bytes) -> None:
    async with (
        session(server) as session_id,
        client_of(server, **{"Content-Type": "application/json"}) as client,
    ):
        response = await client.post(f"/sessions/{session_id}/checkpoints", content=content)

    assert response.status_code == 201
    assert response.json()["name"] == ""
    assert response.json()["execution_count"] is None


async def test_session_goes_back_as_often_as_wanted(server: Server) -> None:
    setup = """
import os, random, numpy as np
values = [1]
array = np.arange(5.0)
random.seed(7)
os.environ['SET'] = 'before'
"""
    ruin = "values.append(2); array[:] = -1; del np; os.environ['SET'] = 'after'; os.chdir('/')"
    look = "values, array.sum().item(), os.environ['SET'], os.getcwd() == '/', random.random()"
    async with session(server) as session_id:
        await run(server, setup, session_id=session_id)
        kept = await checkpoint(server, session_id)
        seen = []
        for number in range(3):
            assert (await run(server, ruin, session_id=session_id))["success"] is True
            facts = await restore(server, session_id, kept)
            answer = await run(server, look, session_id=session_id)
            seen.append((answer["result"], answer["execution_count"], answer["notes"]))
            assert facts["id"] == session_id
            assert facts["state"] == "idle"
            assert facts["generation"] == number + 2
            assert facts["checkpoints"] == 1
        runs = (await session_facts(server, session_id))["executions"]

    assert seen[0][0].startswith("([1], 10.0, 'before', False, 0.")
    assert seen == [(seen[0][0], 2, [])] * 3
    # The transcript is the session's, not the kernel's.
    assert runs == 7


async def test_session_goes_back_and_forth_between_states(server: Server) -> None:
    async with session(server) as session_id:
        kept = []
        for number in range(3):
            await run(server, f"at = {number}", session_id=session_id)
            kept.append(await checkpoint(server, session_id))
        listed = await checkpoints(server, session_id)
        seen = []
        for number in (0, 2, 1, 1, 0):
            await restore(server, session_id, kept[number])
            seen.append((await run(server, "at", session_id=session_id))["result"])

    assert [each["id"] for each in listed] == kept
    assert [each["execution_count"] for each in listed] == [1, 2, 3]
    assert seen == ["0", "2", "1", "1", "0"]


async def test_restored_session_can_do_what_sessions_can(server: Server) -> None:
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "elephant = 1", session_id=session_id)
        kept = await checkpoint(server, session_id)
        await restore(server, session_id, kept)
        plotted = await run(server, plot, session_id=session_id)
        awaited = await run(
            server, "import asyncio; await asyncio.sleep(0.01); 5", session_id=session_id
        )
        shelled = await run(server, "import os; os.system('echo x');", session_id=session_id)
        listed = (await client.get(f"/sessions/{session_id}/variables")).json()
        completed = await post(server, f"/sessions/{session_id}/complete", code="elep")
        sleeping = asyncio.create_task(run(server, SLEEP, session_id=session_id))
        await until_busy(server, session_id)
        await post(server, f"/sessions/{session_id}/interrupt")
        interrupted = await sleeping
        async with branch(server, session_id) as child:
            in_child = await run(server, "elephant", session_id=child)

    assert plotted["png"]
    assert awaited["result"] == "5"
    assert shelled["stdout"] == "x\n"
    assert "elephant" in [item["name"] for item in listed["variables"]]
    assert completed.json()["matches"] == ["elephant"]
    assert interrupted["outcome"] == "interrupted"
    assert in_child["result"] == "1"


async def test_session_whose_kernel_has_died_can_be_restored(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "kept = 1", session_id=session_id)
        kept = await checkpoint(server, session_id)
        pid = (await session_facts(server, session_id))["pid"]
        os.kill(pid, signal.SIGKILL)
        await until_ended(pid)

        await restore(server, session_id, kept)
        between = await run(server, "kept", session_id=session_id)
        died = await run(server, "import os; os._exit(3)", session_id=session_id)
        await restore(server, session_id, kept)
        during = await run(server, "kept", session_id=session_id)

    assert between["result"] == during["result"] == "1"
    assert between["notes"] == during["notes"] == []
    assert died["outcome"] == "kernel_died"


async def test_session_that_was_restarted_can_be_restored(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "kept = 1", session_id=session_id)
        kept = await checkpoint(server, session_id)
        await post(server, f"/sessions/{session_id}/restart")
        fresh = await run(server, "'kept' in dir()", session_id=session_id)
        await restore(server, session_id, kept)
        answer = await run(server, "kept", session_id=session_id)

    assert fresh["result"] == "False"
    assert answer["result"] == "1"
    assert answer["execution_count"] == 2


async def test_restore_cancels_what_runs_and_waits(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "kept = [1]", session_id=session_id)
        kept = await checkpoint(server, session_id)
        running = asyncio.create_task(
            run(server, f"print('begun'); kept.append(2)\n{SLEEP}", session_id=session_id)
        )
        await until_busy(server, session_id)
        waiting = asyncio.create_task(run(server, "kept.append(3)", session_id=session_id))
        await until_busy(server, session_id, queued=1)
        branching = asyncio.create_task(post(server, f"/sessions/{session_id}/branch"))
        await until_busy(server, session_id, queued=2)

        await restore(server, session_id, kept)
        answers = await asyncio.gather(running, waiting)
        refused = await branching
        answer = await run(server, "kept", session_id=session_id)

    assert [each["outcome"] for each in answers] == ["cancelled", "cancelled"]
    assert all("restored" in each["stderr"] for each in answers)
    assert refusal(refused, 409) == "SESSION_CLOSED"
    assert answer["result"] == "[1]"
    assert answer["notes"] == []


async def test_fresh_kernel_is_what_a_restored_session_gets_after_a_loss(
    server: Server, tmp_path: Path
) -> None:
    look = "import os; 'kept' in dir(), os.environ['OWN'], os.path.basename(os.getcwd())"
    async with session(server, env={"OWN": "1"}, workdir=str(tmp_path)) as session_id:
        await run(server, "kept = 1", session_id=session_id)
        await restore(server, session_id, await checkpoint(server, session_id))
        before = await run(server, look, session_id=session_id)
        await run(server, "os._exit(1)", session_id=session_id)
        after = await run(server, look, session_id=session_id)

    assert before["result"] == f"(True, '1', {tmp_path.name!r})"
    assert after["result"] == f"(False, '1', {tmp_path.name!r})"


async def test_checkpoint_tells_the_execution_count_of_its_kernel(server: Server) -> None:
    async with session(server) as session_id:
        for _ in range(3):
            await run(server, "1", session_id=session_id)
        kept = [await checkpoint(server, session_id)]
        async with branch(server, session_id) as child:
            await checkpoint(server, child)
            (of_branch,) = await checkpoints(server, child)
        await run(server, "1", session_id=session_id)
        await restore(server, session_id, kept[0])
        await checkpoint(server, session_id)
        await post(server, f"/sessions/{session_id}/restart")
        await checkpoint(server, session_id)
        await run(server, "1", session_id=session_id)
        await checkpoint(server, session_id)
        counts = [each["execution_count"] for each in await checkpoints(server, session_id)]

    assert of_branch["execution_count"] == 3
    assert counts == [3, 3, None, 1]


async def test_default_session_can_be_kept_and_restored(server: Server) -> None:
    # Other tests have left threads in it.
    await run(server, "pass")
    assert (await post(server, "/sessions/default/restart")).status_code == 200
    await run(server, "of_default = 5")
    kept = await checkpoint(server, "default")
    await run(server, "of_default = 6")
    facts = await restore(server, "default", kept)
    answer = await run(server, "of_default")
    async with client_of(server) as client:
        await client.delete(f"/sessions/default/checkpoints/{kept}")

    assert facts["id"] == "default-python"
    assert answer["result"] == "5"
