"""Both clients on a real service."""

from __future__ import annotations

import contextlib
import socket

import pytest

from kernelagent.client import AsyncClient, ServiceError, ServiceUnreachable
from tests.client.conftest import Connect
from tests.runs import session, session_facts
from tests.servers import Server


def client_of(connect: Connect, server: Server) -> AsyncClient:
    return connect(server.url, token=server.token)


async def test_client_runs_and_streams(connect: Connect, server: Server) -> None:
    async with client_of(connect, server) as client:
        assert (await client.health())["status"] == "healthy"
        session_id = await client.create_session(language="python")
        answer = await client.execute_rich("1 + 1", session_id=session_id)
        stream = client.execute_stream("print(1)", session_id=session_id)
        kinds = [message["type"] async for message in stream]
        await client.close_session(session_id)

    assert answer["result"] == "2"
    assert kinds[0] == "started"
    assert kinds[-1] == "complete"


async def test_sessions_are_listed_restarted_and_closed(connect: Connect, server: Server) -> None:
    async with client_of(connect, server) as client:
        session_id = await client.create_session(env={"MODE": "test"})
        await client.execute_rich("kept = 1", session_id=session_id)
        listed = await client.sessions()
        restarted = await client.restart_session(session_id)
        code = "import os; os.environ['MODE'], 'kept' in dir()"
        answer = await client.execute_rich(code, session_id=session_id)
        await client.close_session(session_id)
        rest = await client.sessions()

    assert session_id in [each["id"] for each in listed]
    assert (restarted["id"], restarted["generation"]) == (session_id, 2)
    assert answer["result"] == "('test', False)"
    assert session_id not in [each["id"] for each in rest]


async def test_a_stream_that_is_closed_early_interrupts_its_run(
    connect: Connect, server: Server
) -> None:
    code = "import time\nseen = ['begun']\nprint('x', flush=True)\ntime.sleep(60)\nseen.append('x')"
    async with session(server) as session_id, client_of(connect, server) as client:
        stream = client.execute_stream(code, session_id=session_id, timeout=90)
        async with contextlib.aclosing(stream):
            async for message in stream:
                if message["type"] == "stdout":
                    break

        answer = await client.execute_rich("seen", session_id=session_id)
        facts = await session_facts(server, session_id)

    assert answer["result"] == "['begun']"
    assert answer["state_lost"] is False
    assert [entry["outcome"] for entry in facts["transcript"]] == ["cancelled", "ok"]


async def test_a_run_is_answered_what_it_asks(connect: Connect, server: Server) -> None:
    async with session(server) as session_id, client_of(connect, server) as client:
        with pytest.raises(ServiceError) as caught:
            await client.send_input(session_id, "too early")
        printed = ""
        async for message in client.execute_stream("print(input())", session_id=session_id):
            if message["type"] == "input_request":
                run = message["execution_id"]
                await client.send_input(session_id, "Ada", execution_id=run)
            printed += message["data"] if message["type"] == "stdout" else ""

    assert caught.value.status == 409
    assert printed == "Ada\n"


async def test_a_run_is_interrupted_by_request(connect: Connect, server: Server) -> None:
    code = "import time\nprint('x', flush=True)\ntime.sleep(60)"
    outcomes = []
    async with session(server) as session_id, client_of(connect, server) as client:
        async for message in client.execute_stream(code, session_id=session_id, timeout=90):
            if message["type"] == "stdout":
                await client.interrupt_session(session_id)
            if message["type"] == "result":
                outcomes.append(message["outcome"])

    assert outcomes == ["interrupted"]


async def test_commands_run(connect: Connect, server: Server) -> None:
    async with client_of(connect, server) as client:
        counted = await client.run_command("wc", args=["-c"], stdin="hello")
        line = await client.run_command("echo $MODE; exit 3", env={"MODE": "test"})
        late = await client.run_command("sleep", args=["60"], timeout=0.1)

    assert counted["stdout"].strip() == "5"
    assert (line["stdout"], line["exit_code"]) == ("test\n", 3)
    assert late["outcome"] == "timeout"


@pytest.mark.parametrize(
    "data", [b"", bytes(range(256)), b"\r\n--" * 1_000_000], ids=["empty", "bytes", "large"]
)
async def test_files_are_read_as_they_were_written(
    connect: Connect, server: Server, data: bytes
) -> None:
    path = "of a client/ü &?#%41+.bin"
    async with client_of(connect, server) as client:
        await client.write_file(path, b"old")
        written = await client.write_file(path, data)
        read = await client.read_file(path)

    assert read == data
    assert written["size"] == len(data)
    assert (server.workspace / path).read_bytes() == data


async def test_files_that_are_none_are_refused(connect: Connect, server: Server) -> None:
    async with client_of(connect, server) as client:
        with pytest.raises(ServiceError) as missing:
            await client.read_file("no/such/file")
        with pytest.raises(ServiceError) as forbidden:
            await client.write_file("/proc/x", b"")
        await client.write_file("of a directory/file", b"x")
        with pytest.raises(ServiceError) as directory:
            await client.write_file("of a directory", b"x")

    assert (missing.value.status, missing.value.code) == (404, "FILE_NOT_FOUND")
    assert (forbidden.value.status, forbidden.value.code) == (403, "PATH_NOT_ALLOWED")
    assert directory.value.status in (400, 409)
    assert [each.name for each in (server.workspace / "of a directory").iterdir()] == ["file"]


async def test_client_starts_lists_follows_and_kills(connect: Connect, server: Server) -> None:
    async with client_of(connect, server) as client:
        started = await client.start_background(
            "print('x', flush=True)\nimport time; time.sleep(60)", name="of a client", timeout=50
        )
        job_id = started["process_id"]
        assert job_id in [each["process_id"] for each in await client.processes()]
        kinds = []
        async for message in client.job_log(job_id, follow=True):
            kinds.append(message["type"])
            if message.get("data") == "x\n":
                assert (await client.kill_job(job_id))["status"] == "killed"
        listed = await client.jobs(status="killed", limit=1)
        facts = await client.job(job_id)
        tail = [message async for message in client.job_log(job_id, tail=3, stream="stdout")]

    assert (kinds[0], kinds[-1], kinds.count("end")) == ("log", "end", 1)
    assert [job["id"] for job in listed["jobs"]] == [job_id]
    assert (facts["name"], facts["timeout"]) == ("of a client", 50)
    assert tail[-1]["type"] == "end"


async def test_an_id_never_leads_to_another_route(connect: Connect, server: Server) -> None:
    async with client_of(connect, server) as client:
        for call in (client.job, client.restart_session, client.close_session):
            with pytest.raises(ServiceError) as caught:
                await call("../x?y#z")
            assert caught.value.status == 404


async def test_without_a_token_only_open_routes_answer(connect: Connect, server: Server) -> None:
    async with connect(server.url) as client:
        await client.health()
        with pytest.raises(ServiceError) as caught:
            await client.sessions()

    assert (caught.value.status, caught.value.code) == (401, "AUTHENTICATION_REQUIRED")


async def test_a_service_that_is_not_there_is_unreachable(connect: Connect) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        async with connect(f"http://127.0.0.1:{silent.getsockname()[1]}") as client:
            with pytest.raises(ServiceUnreachable, match="nothing answers"):
                await client.health()
