"""What is left after a server was killed, or shut down, with jobs under way."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Any

from tests.jobs.jobs import (
    alive,
    ended,
    follow,
    get,
    job,
    kill,
    output,
    pids_in,
    post,
    start,
    start_command,
)
from tests.jobs.receiver import receiving
from tests.servers import Server, start_server
from tests.waiting import until

SETTINGS: dict[str, Any] = {
    "KERNELAGENT_WEBHOOK_ALLOW": "127.0.0.1",
    "KERNELAGENT_JOB_KERNELS": "6",
}


async def begin(root: Path) -> Server:
    return await asyncio.to_thread(start_server, root, **SETTINGS)


async def crash(server: Server) -> None:
    server.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(server.process.wait)


async def test_directories_of_a_server_that_was_killed_are_removed(tmp_path: Path) -> None:
    def begin_here() -> Server:
        return start_server(tmp_path, KERNELAGENT_RUNTIME_DIR=str(runtime), KERNELAGENT_PRELOAD="")

    # The names of sockets are short.
    with tempfile.TemporaryDirectory() as folder:
        runtime = Path(folder)
        server = await asyncio.to_thread(begin_here)
        try:
            await crash(server)
            left = list(runtime.iterdir())
            groups = groups_of(server)
            assert len(left) == 1
            server = await asyncio.to_thread(begin_here)
            await post(server, "/execute", code="1", timeout=60)
            assert len(list(runtime.iterdir())) == 1
            assert not left[0].exists()
            assert not any(group.exists() for group in groups)
        finally:
            await asyncio.to_thread(server.stop)


def groups_of(server: Server) -> list[Path]:
    """The folders of its memory groups, if the system lets it have any."""
    return list(Path("/sys/fs/cgroup").glob(f"**/kernelagent-{server.process.pid}-*"))


async def test_a_server_that_is_killed_forgets_nothing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    note = f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} {{child.pid}} ')"
    forking = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['setsid', 'sleep', '300'])\n"
        f"{note}\nprint('before', flush=True)\ntime.sleep(300)"
    )
    line = f"setsid sleep 300 & echo $$ $! >> {pids}; echo before; wait"
    async with receiving() as receiver:
        first = await begin(tmp_path)
        try:
            delivered = [
                (
                    await post(
                        first,
                        "/execute/async",
                        code=f"print({n})",
                        callback_url=receiver.url,
                        callback_signature_secret="s3cret",
                    )
                )["execution_id"]
                for n in range(3)
            ]
            for name in delivered:
                await ended(first, name)

            async def three_were_refused() -> bool:
                return len(set(receiver.keys())) == 3

            await until(three_were_refused)
            keys = set(receiver.keys())
            (tmp_path / "state" / "jobs" / "cmd_forgotten").mkdir()
            done = await start_command(first, "echo kept")
            await ended(first, done)
            running = [await start(first, forking) for _ in range(3)]
            running += [await start_command(first, line) for _ in range(2)]
            watched = await post(first, "/execute/async", code=forking, callback_url=receiver.url)
            running.append(watched["execution_id"])
            found = await pids_in(pids, 12)
            assert all(map(alive, found))

            async def all_were_heard() -> bool:
                logs = [await get(first, f"/jobs/{name}/logs") for name in running]
                return all(output(log["messages"]) == b"before\n" for log in logs)

            await until(all_were_heard)
        finally:
            await crash(first)

        second = await begin(tmp_path)
        try:
            assert not any(map(alive, found))
            assert not (tmp_path / "state" / "jobs" / "cmd_forgotten").exists()
            processes = (await get(second, "/execute/processes"))["processes"]
            statuses = {item["process_id"]: item["status"] for item in processes}
            assert statuses == {
                **dict.fromkeys(delivered, "completed"),
                done: "completed",
                **dict.fromkeys(running, "failed"),
            }
            for name in running:
                facts = await job(second, name)
                assert "server ended" in facts["message"]
                assert facts["pid"] or facts["duration"]
                assert output(await follow(second, name)) == b"before\n"
            assert output(await follow(second, done)) == b"kept\n"
            outputs = await get(second, f"/jobs/{delivered[1]}/outputs")
            assert outputs["stdout"] == "1\n"

            receiver.status = 200

            async def all_were_taken() -> bool:
                return len(receiver.keys(taken=True)) >= 4

            await until(all_were_taken)
            taken = receiver.keys(taken=True)
            assert len(taken) == len(set(taken)) == 4
            assert keys < set(taken)
            bodies = {str(body["execution_id"]): body for _, body, done in receiver.seen if done}
            assert set(bodies) == {*delivered, watched["execution_id"]}
            lost = bodies[watched["execution_id"]]
            assert (lost["status"], lost["success"], lost["stdout"]) == (
                "failed",
                False,
                "before\n",
            )
            assert "server ended" in str(lost["error"])

            async def is_told() -> bool:
                facts = await job(second, delivered[0])
                return bool(facts["webhook"]["state"] == "delivered")

            await until(is_told)
        finally:
            assert await asyncio.to_thread(second.stop) == 0


async def test_jobs_that_waited_are_begun_by_the_next_server(tmp_path: Path) -> None:
    first = await begin(tmp_path)
    trace = tmp_path / "trace"
    try:
        blocking = [await start(first, "import time; time.sleep(300)") for _ in range(6)]
        code = f"import os; print(os.environ['X'], file=open({str(trace)!r}, 'a'))"
        waiting = [await start(first, code, env={"X": str(n)}) for n in range(8)]
    finally:
        await crash(first)
    second = await begin(tmp_path)
    try:
        for name in waiting:
            assert (await ended(second, name))["status"] == "completed"
        assert sorted(trace.read_text().split()) == [str(n) for n in range(8)]
        for name in blocking:
            assert (await job(second, name))["status"] == "failed"
    finally:
        assert await asyncio.to_thread(second.stop) == 0


async def test_a_shutdown_records_what_ran(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    first = await begin(tmp_path)
    try:
        code = await start(first, "print('on', flush=True)\nimport time; time.sleep(300)")
        line = f"trap '' TERM; echo $$ > {pids}; while :; do sleep 1; done"
        command = await start_command(first, line)
        found = await pids_in(pids, 1)
        following = asyncio.create_task(follow(first, code))

        async def has_printed() -> bool:
            return bool((await job(first, code))["stdout"])

        await until(has_printed)
    finally:
        assert await asyncio.to_thread(first.stop) == 0
    assert not any(map(alive, found))
    messages = await following
    assert output(messages) == b"on\n"
    assert messages[-1]["status"] == "failed"
    second = await begin(tmp_path)
    try:
        for name in (code, command):
            facts = await job(second, name)
            assert facts["status"] == "failed"
            assert "shut down" in facts["message"]
    finally:
        await asyncio.to_thread(second.stop)


async def test_what_was_asked_for_is_kept_only_until_it_begins(tmp_path: Path) -> None:
    server = await begin(tmp_path)
    try:
        secret = "a-variable-of-the-caller"
        job_id = await start(server, "import time; time.sleep(300)", env={"X": secret})

        async def has_begun() -> bool:
            return bool((await job(server, job_id))["pid"])

        await until(has_begun)
        await kill(server, job_id)
    finally:
        assert await asyncio.to_thread(server.stop) == 0
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
