"""More jobs than may run at once, and more than are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.jobs.jobs import ended, get, job, kill, post, refused, start, start_command
from tests.runs import client_of
from tests.servers import Server, Service
from tests.waiting import until

BLOCK = "import time; time.sleep(100)"


async def test_they_wait_in_order(server_with_little: Service, tmp_path: Path) -> None:
    server = server_with_little
    trace = tmp_path / "trace"
    blocking = await start(server, BLOCK)
    waiting = [await start(server, f"print({n}, file=open({str(trace)!r}, 'a'))") for n in range(3)]
    assert [(await job(server, name))["queue_position"] for name in waiting] == [1, 2, 3]
    for name in waiting:
        facts = await job(server, name)
        assert (facts["status"], facts["pid"], facts["duration"]) == ("queued", 0, 0)
    health = await get(server, "/health")
    assert health["jobs"]["code"] == {"running": 1, "queued": 3, "limit": 1}

    # Commands have a queue of their own.
    command = await start_command(server, "true")
    assert (await ended(server, command))["status"] == "completed"

    async with client_of(server) as client:
        response = await client.post("/execute/background", json={"code": "1"})
    body = await refused(response, 409, "JOB_LIMIT")
    assert body["details"]["limit"] == 3

    await kill(server, blocking)
    for name in waiting:
        assert (await ended(server, name))["status"] == "completed"
    assert trace.read_text() == "0\n1\n2\n"


async def test_one_that_waits_can_be_killed(server_with_little: Service, tmp_path: Path) -> None:
    server = server_with_little
    trace = tmp_path / "trace"
    blocking = await start(server, BLOCK)
    waiting = await start(server, f"open({str(trace)!r}, 'w')")
    answers = await asyncio.gather(*(kill(server, waiting) for _ in range(3)))
    assert {answer["status"] for answer in answers} == {"killed"}
    facts = await job(server, waiting)
    assert (facts["exit_code"], facts["pid"]) == (143, 0)
    assert "had not begun" in facts["message"]
    await kill(server, blocking)
    later = await start(server, "1")
    assert (await ended(server, later))["status"] == "completed"
    assert not trace.exists()


async def test_a_command_that_waits_says_so(server_with_little: Service) -> None:
    server = server_with_little
    blocking = await start_command(server, "sleep 60")
    answer = await post(server, "/commands/background", command="true")
    assert (answer["status"], answer["pid"]) == ("queued", 0)
    assert "waits" in answer["message"]
    await kill(server, blocking)
    assert (await ended(server, answer["process_id"]))["status"] == "completed"


async def test_only_so_many_are_kept(server_with_little: Service) -> None:
    server = server_with_little
    running = await start(server, BLOCK)
    made = []
    for n in range(12):
        made.append(await start_command(server, f"echo {n}"))
        await ended(server, made[-1])

    async def is_pruned() -> bool:
        return bool((await get(server, "/execute/processes"))["count"] == 6)

    await until(is_pruned)
    processes = (await get(server, "/execute/processes"))["processes"]
    assert {item["process_id"] for item in processes} == {running, *made[-5:]}
    kept = server.state / "jobs"

    async def folders_are_gone() -> bool:
        return {path.name for path in kept.iterdir()} <= {running, *made[-5:]}

    await until(folders_are_gone)
    await kill(server, running)


async def test_a_burst_is_taken_and_done_in_order(server: Server, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    # Of more, with /health meanwhile: `make prove floods`.
    async with client_of(server) as client:
        responses = await asyncio.gather(
            *(
                client.post(
                    "/execute/background",
                    json={"code": f"print({n}, file=open({str(trace)!r}, 'a'))"},
                )
                for n in range(60)
            )
        )
    jobs = [response.json()["process_id"] for response in responses]
    assert len(set(jobs)) == 60

    async def all_have_ended() -> bool:
        listed = (await get(server, "/execute/processes"))["processes"]
        mine = [item for item in listed if item["process_id"] in jobs]
        return all(item["status"] == "completed" for item in mine) and len(mine) == 60

    await until(all_have_ended)
    listed = (await get(server, "/execute/processes"))["processes"]
    mine = [item for item in listed if item["process_id"] in jobs]
    # The list is in the order in which they were taken; they have begun in the same one.
    begun = [item["start_time"] for item in mine]
    assert begun == sorted(begun)
    assert sorted(map(int, trace.read_text().split())) == list(range(60))
