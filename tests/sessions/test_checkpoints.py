"""/sessions/{id}/checkpoints and /restore: states that are kept, and gone back to."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server, serving, start_server
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

SLEEP = "import time; time.sleep(60)"
MIB = 2**20


@pytest.fixture(scope="module")
def two_checkpoint_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps two states of each session."""
    root = tmp_path_factory.mktemp("two")
    with serving(root, KERNELAGENT_MAX_CHECKPOINTS="2") as running:
        yield running


@pytest.fixture
def small_memory_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose checkpoints may take 220 MiB together."""
    with serving(
        tmp_path,
        KERNELAGENT_CHECKPOINT_MEMORY=str(220 * MIB),
        KERNELAGENT_POOL_IDLE="0",
    ) as running:
        yield running


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


# Kept and gone back to


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


# Its turn, refusals


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


# Bounded


async def test_limit_of_checkpoints_is_each_sessions_own(two_checkpoint_server: Server) -> None:
    server = two_checkpoint_server
    async with session(server) as one, session(server) as two:
        kept = [await checkpoint(server, one) for _ in range(2)]
        response = await post(server, f"/sessions/{one}/checkpoints")
        await checkpoint(server, two)
        async with client_of(server) as client:
            await client.delete(f"/sessions/{one}/checkpoints/{kept[0]}")
        newest = await checkpoint(server, one)
        left = await checkpoints(server, one)

    assert refusal(response, 409) == "CHECKPOINT_LIMIT"
    assert response.json()["details"] == {"limit": 2}
    assert [each["id"] for each in left] == [kept[1], newest]


async def test_limit_holds_when_checkpoints_are_made_at_once(
    two_checkpoint_server: Server,
) -> None:
    server = two_checkpoint_server
    async with session(server) as one, session(server) as two, session(server) as three:
        responses = await asyncio.gather(
            *(post(server, f"/sessions/{each}/checkpoints") for each in (one, two, three) * 4)
        )
        kept = [len(await checkpoints(server, each)) for each in (one, two, three)]

    assert sorted(response.status_code for response in responses) == [201] * 6 + [409] * 6
    assert kept == [2, 2, 2]


async def test_oldest_checkpoint_makes_way_when_they_grow_and_new_ones_are_refused(
    small_memory_server: Server,
) -> None:
    server = small_memory_server
    async with session(server) as session_id, session(server) as other:
        # What a checkpoint shares with its session counts in part, until one of them changes it.
        code = "import numpy as np; big = np.ones(150 * 2**17)"
        await run(server, code, session_id=session_id)
        oldest = await checkpoint(server, session_id)
        await run(server, "big[:] = 2", session_id=session_id)
        newer = await checkpoint(server, session_id)
        await run(server, "big[:] = 3", session_id=session_id)

        async def is_within_memory() -> bool:
            return len(await checkpoints(server, session_id)) == 1

        await until(is_within_memory)
        response = await post(server, f"/sessions/{session_id}/restore", checkpoint_id=oldest)
        of_other = await run(server, "1", session_id=other)
        told = await run(server, "float(big[0])", session_id=session_id)
        await restore(server, session_id, newer)
        restored = await run(server, "float(big[0])", session_id=session_id)

        await run(server, "big[:] = 4", session_id=session_id)
        await checkpoint(server, session_id)
        await run(server, "big[:] = 5", session_id=session_id)
        refused = await post(server, f"/sessions/{other}/checkpoints")
        facts = (await health(server))["memory"]["checkpoints"]

    assert refusal(response, 404) == "CHECKPOINT_NOT_FOUND"
    (note,) = told["notes"]
    assert oldest in note
    assert "220 MiB" in note
    assert of_other["notes"] == restored["notes"] == []
    assert told["result"] == "3.0"
    assert restored["result"] == "2.0"
    assert refusal(refused, 409) == "CHECKPOINT_LIMIT"
    assert refused.json()["details"]["limit"] == 220 * MIB
    assert refused.json()["details"]["used"] > 220 * MIB
    assert facts["count"] == 2
    assert facts["memory"] == refused.json()["details"]["used"]
    assert facts["memory_limit"] == 220 * MIB


async def test_health_counts_checkpoints(server: Server) -> None:
    before = (await health(server))["memory"]["checkpoints"]
    async with session(server) as one, session(server) as two:
        await checkpoint(server, one)
        kept = await checkpoint(server, two)
        during = (await health(server))["memory"]["checkpoints"]
        async with client_of(server) as client:
            await client.delete(f"/sessions/{two}/checkpoints/{kept}")
        later = (await health(server))["memory"]["checkpoints"]
    after = (await health(server))["memory"]["checkpoints"]

    assert during["count"] == before["count"] + 2
    assert during["memory"] > before["memory"]
    assert later["count"] == before["count"] + 1
    assert after["count"] == before["count"]


# Nothing is left


async def test_checkpoints_end_with_the_service(tmp_path: Path) -> None:
    running = start_server(tmp_path)
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
