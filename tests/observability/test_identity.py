"""/, /ping, /health and /info: their shapes, open to all, answered whatever goes on."""

from __future__ import annotations

import asyncio
import platform
import re
from datetime import datetime
from typing import Any

import httpx
import pytest

import kernelagent
from tests.runs import client_of, run, session, streamed, until_busy
from tests.servers import Server
from tests.waiting import until

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LANGUAGES = {"python", "javascript", "bash", "go"}


async def answer_of(server: Server, path: str) -> dict[str, Any]:
    """The answer to a client without a token."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    answer: dict[str, Any] = response.json()
    return answer


async def test_root_says_who_answers(server: Server) -> None:
    answer = await answer_of(server, "/")

    assert answer["agent"] == "kernelagent"
    assert answer["status"] == "running"
    assert answer["version"] == kernelagent.__version__
    assert answer["vm_id"] == "local"
    assert isinstance(answer["message"], str)
    assert TIMESTAMP.fullmatch(answer["timestamp"])
    assert answer["endpoints"]["execute"] == "POST /execute"
    assert answer["endpoints"]["execute_stream"] == "WEBSOCKET /execute/stream"


async def test_ping_is_a_map_of_strings(server: Server) -> None:
    answer = await answer_of(server, "/ping")

    assert answer["status"] == "ok"
    assert all(isinstance(value, str) for value in answer.values())


async def test_health_has_what_published_clients_read(server: Server) -> None:
    answer = await answer_of(server, "/health")

    assert answer["status"] == "healthy"
    for name in ("message", "agent", "version", "go_version", "vm_id"):
        assert isinstance(answer[name], str)
    assert re.fullmatch(r"\d+h\d+m\d+s", answer["uptime"])
    assert isinstance(answer["uptime_seconds"], int | float)
    assert isinstance(answer["active_streams"], int)


@pytest.mark.parametrize("path", ["/health", "/info"])
async def test_features_are_an_object_of_booleans_and_languages(server: Server, path: str) -> None:
    features = (await answer_of(server, path))["features"]

    assert features.pop("languages")[:5] == ["python", "javascript", "typescript", "bash", "go"]
    assert {
        "code_execution",
        "file_operations",
        "terminal_access",
        "websocket_streaming",
        "rich_output",
        "background_jobs",
        "ipython_kernel",
        "system_metrics",
        "process_management",
        "desktop",
        "ipython",
    } <= set(features)
    assert all(isinstance(value, bool) for value in features.values())
    assert features["code_execution"] is True
    assert features["system_metrics"] is True


async def test_health_counts_what_runs(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        before = await answer_of(server, "/health")
        running = asyncio.create_task(
            run(server, "import time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)
        during = await answer_of(server, "/health")
        await client.post(f"/sessions/{session_id}/interrupt")
        await running

    assert during["active_executions"] == before["active_executions"] + 1
    assert during["sessions"] == before["sessions"] >= 1


async def test_health_tells_of_the_pools(server: Server) -> None:
    answer = await answer_of(server, "/health")

    assert answer["ready"] in (True, False)
    pool = answer["pools"]["python"]
    assert pool["wanted"] == 2
    assert {"idle", "starting", "leased"} <= set(pool)


async def test_readiness_is_liveness_once_the_pool_is_warm(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:

        async def is_ready() -> bool:
            return (await client.get("/health", params={"ready": "1"})).status_code == 200

        await until(is_ready)
        answer = await client.get("/health", params={"ready": "true"})
        assert answer.json()["status"] == "healthy"
        assert answer.json()["ready"] is True
        refused = await client.get("/health", params={"ready": "perhaps"})
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")


async def test_info_has_what_published_clients_read(server: Server) -> None:
    answer = await answer_of(server, "/info")

    assert answer["agent"] == "kernelagent"
    assert answer["agent_version"] == answer["version"] == kernelagent.__version__
    assert answer["os"] == platform.system().lower()
    for name in ("vm_id", "arch", "platform", "go_version", "ip", "vm_ip"):
        assert isinstance(answer[name], str)
    port = server.url.rpartition(":")[2]
    assert answer["port"] == answer["vm_port"] == port
    assert TIMESTAMP.fullmatch(answer["start_time"])
    assert datetime.fromisoformat(answer["start_time"]).utcoffset() is not None
    assert isinstance(answer["uptime"], int | float)
    assert isinstance(answer["uptime_seconds"], int | float)


async def test_info_names_the_languages_and_how_to_get_the_missing_ones(server: Server) -> None:
    languages = {item["name"]: item for item in (await answer_of(server, "/info"))["languages"]}

    assert set(languages) >= LANGUAGES
    assert languages["python"]["available"] is True
    assert "python3" in languages["python"]["aliases"]
    assert languages["python"]["version"].startswith("3.")
    assert languages["go"]["available"] is True
    assert languages["go"]["missing"] is None
    assert languages["bash"]["aliases"] == ["sh", "shell"]
    assert languages["bash"]["pool"] == 0


async def test_endpoints_name_routes_that_exist(server: Server) -> None:
    endpoints = (await answer_of(server, "/info"))["endpoints"]

    async with client_of(server) as client:
        for endpoint in endpoints.values():
            methods, path = endpoint.split(" ")
            if methods == "WEBSOCKET":
                continue
            # A path that exists refuses the method, not the path.
            response = await client.request("PROPFIND", re.sub(r"\{\w+\}", "x", path))
            assert response.status_code == 405, endpoint


async def test_no_secret_is_told(server: Server) -> None:
    for path in ("/", "/ping", "/health", "/info", "/system"):
        assert "secret" not in str(await answer_of(server, path)).lower()


async def test_bad_token_does_not_close_what_is_open_to_all(server: Server) -> None:
    async with httpx.AsyncClient(
        base_url=server.url, headers={"Authorization": "Bearer nonsense"}
    ) as client:
        for path in ("/", "/ping", "/health", "/info", "/system"):
            assert (await client.get(path)).status_code == 200


async def test_health_answers_while_a_kernel_prints_without_pause(server: Server) -> None:
    code = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: print('x' * 80)"
    async with (
        session(server) as session_id,
        client_of(server) as client,
        streamed(server, code, session_id=session_id, timeout=90) as response,
    ):
        # Held on to: a collected iterator would close the connection, and so end the run.
        lines = response.aiter_lines()
        await anext(lines)
        for _ in range(50):
            answer = await client.get("/health")
            assert answer.json()["status"] == "healthy"
        facts = (await client.get(f"/sessions/{session_id}")).json()

    assert facts["state"] == "busy"
