"""What published hopx clients ask about the agent: health, info, metrics, processes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hopx_ai import AsyncSandbox, Sandbox

import kernelagent
from tests.clients.control_plane import control_plane
from tests.installed import javascript_client
from tests.servers import Server
from tests.waiting import PATIENCE


def check(got: dict[str, Any], server: Server) -> None:
    """The answers as a client hands them on, all of a server that has run code."""
    assert got["healthy"] is True
    info = got["info"]
    assert info["agent_version"] == kernelagent.__version__
    assert isinstance(info["port"], str)
    assert "python" in info["features"]["languages"]
    for name in ("metrics", "snapshot"):
        metrics = got[name]
        assert metrics["uptime_seconds"] > 0
        assert metrics["total_executions"] >= 1
        assert metrics["requests_total"]["/execute"]["success"] >= 1
        assert metrics["system"]["memory"]["total"] > 0
        assert metrics["total_requests"] >= metrics["total_errors"]
    (own,) = [item for item in got["system"] if item["pid"] == server.process.pid]
    for name in ("ppid", "name", "command", "user", "status", "start_time"):
        assert own[name] not in (None, ""), name
    for name in ("cpu_percent", "memory_percent", "memory_mb"):
        assert isinstance(own[name], int | float), name
    assert isinstance(got["processes"], list)


async def test_the_published_client(server: Server) -> None:
    await asyncio.to_thread(_drive_the_published_client, server)


def _drive_the_published_client(server: Server) -> None:
    with control_plane(server) as base_url:
        sandbox: Any = Sandbox.connect("local", api_key="any", base_url=base_url)
        try:
            sandbox.run_code("1", working_dir=str(server.workspace))
            sandbox.ensure_healthy()
            assert Sandbox.health_check(base_url=server.url)["status"] == "healthy"
            check(
                {
                    "healthy": sandbox.is_healthy(),
                    "info": sandbox.get_agent_info(),
                    "metrics": sandbox.get_agent_metrics(),
                    "snapshot": sandbox.get_metrics_snapshot(),
                    "system": sandbox.list_system_processes(),
                    "processes": sandbox.list_processes(),
                },
                server,
            )
        finally:
            sandbox._agent_client.close()
            sandbox._client.close()


async def test_the_published_asynchronous_client(server: Server) -> None:
    with control_plane(server) as base_url:
        sandbox: Any = await AsyncSandbox.connect("local", api_key="any", base_url=base_url)
        try:
            await sandbox.run_code("1", working_dir=str(server.workspace))
            await sandbox.ensure_healthy()
            health = await AsyncSandbox.health_check(base_url=server.url)
            assert health["status"] == "healthy"
            check(
                {
                    "healthy": await sandbox.is_healthy(),
                    "info": await sandbox.get_agent_info(),
                    "metrics": await sandbox.get_agent_metrics(),
                    # This one asks for /metrics.
                    "snapshot": await sandbox.get_metrics_snapshot(),
                    "system": await sandbox.list_system_processes(),
                    "processes": await sandbox.list_processes(),
                },
                server,
            )
        finally:
            await sandbox._agent_client.close()
            await sandbox._client.close()


async def test_the_published_javascript_client(server: Server) -> None:
    Sandbox.debug(agent_url=server.url, jwt_token=server.token).run_code(
        "1", working_dir=str(server.workspace)
    )
    script = javascript_client("observability.mjs")
    with control_plane(server) as base_url:
        node = await asyncio.create_subprocess_exec(
            *script, base_url, server.url, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await asyncio.wait_for(node.communicate(), PATIENCE)
    assert node.returncode == 0
    got = json.loads(printed.splitlines()[-1])
    check(got, server)
    assert got["health"]["status"] == got["check"]["status"] == "healthy"
    assert got["health"]["uptime_seconds"] > 0
