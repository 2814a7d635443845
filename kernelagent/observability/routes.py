"""Open routes: what this is, and whether it is well."""

from __future__ import annotations

import os
import platform
import socket
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts

from kernelagent import __version__
from kernelagent.auth import PUBLIC
from kernelagent.jobs.service import JobService
from kernelagent.jupyter.engine import Engine
from kernelagent.responses import utc_timestamp

router = APIRouter(tags=["observability"], dependencies=[Depends(PUBLIC)])

AGENT = "kernelagent"


class Clock:
    """When the service started."""

    def __init__(self) -> None:
        self.started_at = datetime.now(UTC)
        self._started = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._started


def features(engine: Engine) -> dict[str, Any]:
    """What this agent can do; an object, as published clients index it by name."""
    return {
        "code_execution": True,
        "rich_output": True,
        "websocket_streaming": True,
        "ipython": True,
        "ipython_kernel": True,
        "sessions": True,
        "result_cache": engine.settings.cache_bytes > 0 and engine.settings.cache_entries > 0,
        "idempotency": True,
        "branches": any(facts["kernel"] == "lean" for facts in engine.fork_server_facts.values()),
        "file_operations": False,
        "terminal_access": False,
        "background_jobs": True,
        "process_management": True,
        "system_metrics": False,
        "desktop": False,
        "languages": [language.name for language in engine.languages if language.available],
    }


def _identity(request: Request) -> dict[str, Any]:
    sandbox_id = request.app.state.settings.sandbox_id
    return {
        "agent": AGENT,
        "version": __version__,
        "agent_version": __version__,
        "vm_id": sandbox_id,
        "timestamp": utc_timestamp(),
    }


@router.get("/")
async def root(request: Request) -> dict[str, Any]:
    """Who answers here, and at which routes."""
    return root_facts(request)


def root_facts(request: Request) -> dict[str, Any]:
    """The fields of the service's root object."""
    return {
        **_identity(request),
        "status": "running",
        "message": "kernelagent runs code in warm Jupyter kernels; see /docs",
        "endpoints": _endpoints(request.app),
    }


@router.get("/ping")
async def ping() -> dict[str, str]:
    """Answers whatever else is going on."""
    return {"status": "ok", "message": "pong"}


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Whether the service lives; `pools` and `ready` tell whether a first run would be quick."""
    engine: Engine = request.app.state.engine
    clock: Clock = request.app.state.clock
    jobs: JobService = request.app.state.jobs
    sessions = list(engine.sessions)
    busy = sum(session.state == "busy" for session in sessions)
    return {
        # Published clients poll on at any other word.
        "status": "healthy",
        "message": "the service is running",
        **_identity(request),
        "go_version": "",
        "uptime": _hours(clock.uptime),
        "uptime_seconds": round(clock.uptime, 3),
        "features": features(engine),
        "active_streams": busy,
        "active_executions": busy,
        "sessions": len(sessions),
        "ready": engine.ready,
        "pools": engine.pool_facts,
        "jobs": jobs.facts,
        "fork_servers": engine.fork_server_facts,
        "memory": engine.memory_facts,
    }


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """What this machine and this service are."""
    engine: Engine = request.app.state.engine
    clock: Clock = request.app.state.clock
    settings = request.app.state.settings
    address = request.scope.get("server") or (settings.host, settings.port)
    return {
        **_identity(request),
        "os": platform.system().lower(),
        "arch": platform.machine(),
        "platform": platform.platform(),
        "python_version": platform.python_version(),
        "go_version": "",
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count() or 1,
        "ip": str(address[0]),
        "vm_ip": str(address[0]),
        # Strings: a published client's type says so.
        "port": str(address[1]),
        "vm_port": str(address[1]),
        "start_time": utc_timestamp(clock.started_at),
        "uptime": round(clock.uptime, 3),
        "uptime_seconds": round(clock.uptime, 3),
        "workspace": str(engine.workspace),
        "authentication": not request.app.state.authenticator.is_open,
        "languages": [
            {
                "name": language.name,
                "aliases": list(language.aliases),
                "available": language.available,
                "missing": language.missing,
                "version": language.version,
                "display_name": language.kernelspec.display_name if language.available else "",
                "pool": settings.pool_size(language.name, *language.aliases),
            }
            for language in engine.languages
        ],
        "limits": {
            "queue": settings.queue_limit,
            "sessions": settings.max_sessions,
            "checkpoints": settings.max_checkpoints,
            "kernel_memory": engine.memory_facts["limit"],
            "output_bytes": settings.output_bytes,
            "body_bytes": settings.max_body_bytes,
            "timeout": settings.max_timeout,
            "job_kernels": settings.job_kernels,
            "job_commands": settings.job_commands,
            "job_queue": settings.job_queue,
            "job_log_bytes": settings.job_log_bytes,
        },
        "isolation": engine.confinement.facts,
        "endpoints": _endpoints(request.app),
        "features": features(engine),
    }


def _endpoints(app: FastAPI) -> dict[str, str]:
    """Name of each route: method and path."""
    found: dict[str, str] = {}
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute):
            found[route.name] = f"{'|'.join(sorted(route.methods or ()))} {context.path}"
        elif isinstance(route, APIWebSocketRoute):
            found[route.name] = f"WEBSOCKET {context.path}"
    return found


def _hours(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}h{minute}m{second}s"
