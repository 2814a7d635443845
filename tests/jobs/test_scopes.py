"""What tokens of one scope see and may do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from kernelagent.auth.tokens import COMMANDS, EXECUTE, FILES, METRICS, Authenticator
from tests.jobs.jobs import ended, get, kill, refused, start, start_command
from tests.servers import SECRET, Server


def client(server: Server, *scopes: str) -> httpx.AsyncClient:
    issuer = Authenticator(sandbox_id="local", secret=SECRET.encode())
    token, _ = issuer.issue(scopes=scopes)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30)


@pytest.mark.parametrize(("own", "other"), [(EXECUTE, COMMANDS), (COMMANDS, EXECUTE)])
async def test_each_kind_of_job_has_its_scope(server: Server, own: str, other: str) -> None:
    jobs = {
        EXECUTE: await start(server, "import time; time.sleep(60)"),
        COMMANDS: await start_command(server, "sleep 60"),
    }
    async with client(server, own) as restricted:
        assert (await restricted.get(f"/jobs/{jobs[own]}")).status_code == 200
        for method, path in (
            ("GET", "/jobs/{}"),
            ("GET", "/jobs/{}/logs"),
            ("GET", "/jobs/{}/outputs"),
            ("DELETE", "/jobs/{}"),
            ("POST", "/jobs/{}/kill"),
            ("POST", "/execute/kill/{}"),
            ("POST", "/processes/{}/kill"),
            ("DELETE", "/execute/kill?process_id={}"),
        ):
            response = await restricted.request(method, path.format(jobs[other]))
            await refused(response, 404, "PROCESS_NOT_FOUND")
        for path, name in (
            ("/execute/processes", "processes"),
            ("/jobs?limit=1000", "jobs"),
            ("/processes", "processes"),
        ):
            listed: list[dict[str, Any]] = (await restricted.get(path)).json()[name]
            seen = {item["process_id"] for item in listed}
            assert jobs[own] in seen
            assert jobs[other] not in seen
    assert (await get(server, f"/jobs/{jobs[other]}"))["status"] == "running"
    for job_id in jobs.values():
        await kill(server, job_id)


async def test_starting_needs_the_scope_of_the_kind(server: Server) -> None:
    code, command = {"code": "1"}, {"command": "true"}
    async with client(server, COMMANDS) as commands, client(server, EXECUTE) as execute:
        for path in ("/execute/background", "/execute/async"):
            await refused(await commands.post(path, json=code), 403, "ACCESS_DENIED")
        response = await execute.post("/commands/background", json=command)
        await refused(response, 403, "ACCESS_DENIED")
    async with client(server, FILES) as files:
        for path in ("/jobs", "/execute/processes", "/processes"):
            await refused(await files.get(path), 403, "ACCESS_DENIED")
    async with client(server, METRICS) as metrics:
        assert (await metrics.get("/processes")).status_code == 200
        await refused(await metrics.get("/jobs"), 403, "ACCESS_DENIED")


async def test_processes_show_the_machine_and_the_jobs(server: Server) -> None:
    running = await start_command(server, "sleep 60")
    done = await start_command(server, "exit 7")
    await ended(server, done)
    listed = (await get(server, "/processes"))["processes"]
    await kill(server, running)

    by_id = {item["process_id"]: item for item in listed}
    mine = by_id[running]
    assert mine["command"].startswith("bash -c sleep") or mine["command"] == "sleep 60"
    assert mine["user"]
    assert mine["memory_mb"] > 0
    assert mine["start_time"].endswith("Z")
    assert by_id[done]["status"] == "failed"
    server_process = by_id[str(server.process.pid)]
    assert "kernelagent" in server_process["command"]
    assert "execution_id" not in server_process
