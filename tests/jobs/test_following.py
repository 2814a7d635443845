"""Logs followed over connections that break."""

from __future__ import annotations

import asyncio
import json
import random
import resource
from pathlib import Path

import psutil
import pytest

from tests.jobs.cutting import Follower, Proxy
from tests.jobs.jobs import ended, follow, get, kill, output, post, refused, start, start_command
from tests.runs import client_of
from tests.servers import WITHOUT_KERNELS, Server, Service, serving
from tests.waiting import until


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "text/event-stream"])
async def test_lines_are_followed_over_ten_cuts(server: Server, media_type: str) -> None:
    # For a minute, and with cuts at any moment: `make prove log_cuts`.
    lines = 300
    code = f"import time\nfor n in range({lines}):\n    print(n, flush=True); time.sleep(0.005)"
    job_id = await start(server, code, timeout=110)
    expected = b"".join(b"%d\n" % n for n in range(lines))
    offsets = sorted(random.Random(media_type).sample(range(len(expected) - 100), 10))  # noqa: S311
    async with Proxy(server) as proxy:
        follower = Follower(proxy, server, job_id, media_type)
        following = asyncio.create_task(follower.follow())
        for offset in offsets:
            await until(lambda offset=offset: proxy.connected and follower.offset >= offset)  # type: ignore[misc]
            proxy.cut()
        messages = await following

    assert proxy.cuts >= 10
    assert output(messages) == expected
    assert not any(message["type"] == "gap" for message in messages)
    assert messages[-1]["status"] == "completed"


async def test_followers_see_lines_when_they_are_printed(server: Server) -> None:
    job_id = await start_command(server, "echo first; sleep 60")
    async with (
        client_of(server) as client,
        client.stream("GET", f"/jobs/{job_id}/logs", params={"follow": 1}) as response,
    ):
        assert response.headers["content-type"].startswith("application/x-ndjson")
        async for line in response.aiter_lines():
            message = json.loads(line)
            if message["type"] == "log":
                break
    assert message["data"] == "first\n"
    assert (await get(server, f"/jobs/{job_id}"))["status"] == "running"
    await kill(server, job_id)


async def test_one_stream_alone(server: Server) -> None:
    job_id = await start_command(server, "echo a; echo b >&2; sleep 0.1; echo c; echo d >&2")
    messages = await follow(server, job_id, stream="stderr")
    assert output(messages, "stderr") == b"b\nd\n"
    assert output(messages) == b""
    page = await get(server, f"/jobs/{job_id}/logs", stream="stdout")
    assert output(page["messages"]) == b"a\nc\n"
    assert {message["stream"] for message in page["messages"]} == {"stdout"}


async def test_pages_and_the_end(server: Server) -> None:
    job_id = await start_command(server, "seq 100000")
    await ended(server, job_id)
    expected = b"".join(b"%d\n" % n for n in range(1, 100_001))

    offset, found, complete = 0, b"", False
    while not complete:
        page = await get(server, f"/jobs/{job_id}/logs", offset=offset, limit=50_000)
        found += output(page["messages"])
        offset, complete = page["next_offset"], page["complete"]
    assert found == expected
    tail = await get(server, f"/jobs/{job_id}/logs", tail=7)
    assert output(tail["messages"]) == b"100000\n"
    beyond = await get(server, f"/jobs/{job_id}/logs", offset=10**9)
    assert (beyond["messages"], beyond["complete"]) == ([], True)


async def test_a_browser_goes_on_after_its_last_event(server: Server) -> None:
    job_id = await start_command(server, "printf 'one\\ntwo\\n'")
    await ended(server, job_id)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "4"}
    async with client_of(server, **headers) as client:
        # The address is that of the first connection.
        text = (await client.get(f"/jobs/{job_id}/logs", params={"offset": 2})).text
    first, *_ = text.split("\n\n")
    fields = dict(line.split(": ", 1) for line in first.splitlines())
    assert (fields["id"], fields["event"]) == ("8", "log")
    assert json.loads(fields["data"])["data"] == "two\n"


async def test_a_follower_of_a_waiting_or_silent_job_hears_that_it_lives(
    server_with_little: Service,
) -> None:
    server = server_with_little
    blocking = await start(server, "import time; time.sleep(60)")
    waiting = await start(server, "print('ran')")
    async with (
        client_of(server) as client,
        client.stream("GET", f"/jobs/{waiting}/logs", params={"follow": 1}) as response,
    ):
        lines = response.aiter_lines()
        assert json.loads(await anext(lines))["type"] == "keepalive"
        await kill(server, blocking)
        rest = [json.loads(line) async for line in lines]
    assert output(rest) == b"ran\n"
    assert rest[-1]["status"] == "completed"


async def test_bad_questions_are_refused(server: Server) -> None:
    answer = await post(server, "/commands/background", command="true")
    path = f"/jobs/{answer['process_id']}/logs"
    async with client_of(server) as client:
        for query in (
            {"stream": "stdin"},
            {"offset": -1},
            {"offset": "x"},
            {"limit": 0},
            {"offset": 1, "tail": 1},
            {"offset": 2**63},
        ):
            await refused(await client.get(path, params=query), 400, "INVALID_REQUEST")


async def test_what_could_not_be_written_is_a_gap(tmp_path: Path) -> None:
    limit = 1_000_000
    with serving(tmp_path, **WITHOUT_KERNELS) as server:
        # As a full disk or a quota would stop it.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        go_on = tmp_path / "go-on"
        line = f"yes abcdefgh | head -c 9000000; while [ ! -e {go_on} ]; do sleep 0.05; done"
        job_id = await start_command(server, line)

        async def all_is_printed() -> bool:
            return bool((await get(server, f"/jobs/{job_id}"))["log"]["bytes"] == 9_000_000)

        await until(all_is_printed)
        following = asyncio.create_task(follow(server, job_id))
        # Whoever waits for what will not come must not do so in a loop.
        before = psutil.Process(server.process.pid).cpu_times()
        await asyncio.sleep(0.5)
        after = psutil.Process(server.process.pid).cpu_times()
        go_on.touch()
        messages = await following
        facts = await ended(server, job_id)
        page = await get(server, f"/jobs/{job_id}/logs", offset=8_000_000)
    assert after.user + after.system - before.user - before.system < 0.25
    assert facts["log"]["error"]
    kept = len(output(messages))
    assert 0 < kept < limit
    assert facts["log"]["cut_bytes"] == 9_000_000 - kept
    gaps = [message["bytes"] for message in messages if message["type"] == "gap"]
    assert sum(gaps) == 9_000_000 - kept
    assert messages[-1]["status"] == "completed"
    assert (page["complete"], page["next_offset"]) == (True, 9_000_000)


async def test_other_streams_do_not_silence_a_follower(server_with_little: Service) -> None:
    server = server_with_little
    job_id = await start_command(server, "while :; do echo x >&2; sleep 0.02; done")
    path = f"/jobs/{job_id}/logs?follow=1&stream=stdout"
    async with (
        client_of(server) as client,
        client.stream("GET", path) as response,
    ):
        lines = response.aiter_lines()
        for _ in range(3):
            assert json.loads(await anext(lines))["type"] == "keepalive"
    await kill(server, job_id)
