"""Open routes: what this is, whether it is well, and on what machine."""

from __future__ import annotations

import os
import platform
import socket
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from kernelagent.errors import NotReady
from kernelagent.jobs.service import JobService
from kernelagent.observability.clock import Clock
from kernelagent.observability.models import Health, Info, Ping, Root, System
from kernelagent.observability.service import ObservabilityService
from kernelagent.sessions.engine import Engine
from kernelagent.text import utc_timestamp
from kernelagent.web.about import endpoints, identity, root_facts
from kernelagent.web.guard import PUBLIC
from kernelagent.web.json import json_response
from kernelagent.web.routing import ErrorResponse
from kernelagent.web.services import service_of

router = APIRouter(tags=["observability"], dependencies=[Depends(PUBLIC)])


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
        "file_operations": True,
        "terminal_access": True,
        "background_jobs": True,
        "process_management": True,
        "system_metrics": True,
        "desktop": False,
        "languages": [language.name for language in engine.languages if language.available],
    }


@router.get("/", response_model=Root)
async def root(request: Request) -> Response:
    """Who answers here, and at which routes."""
    return json_response(root_facts(request))


@router.get("/ping", response_model=Ping)
async def ping() -> Response:
    """Answers whatever else is going on."""
    return json_response({"status": "ok", "message": "pong"})


@router.get(
    "/health",
    response_model=Health,
    responses={
        400: {"model": ErrorResponse, "description": "`ready` is neither true nor false"},
        503: {"model": ErrorResponse, "description": "Asked for readiness: not warm yet"},
        # Keeps FastAPI from documenting its own 422, which is never sent.
        "default": {"model": ErrorResponse, "description": "Any other error"},
    },
)
async def health(
    request: Request,
    ready: Annotated[
        bool, Query(description="Ask for readiness: 503 while the default pool is not warm")
    ] = False,
) -> Response:
    """Whether the service lives; with `ready=1` whether a first run would find a warm kernel."""
    engine = service_of(request, Engine)
    if ready and not engine.ready:
        raise NotReady("the default pool is not warm yet", details={"pools": engine.pool_facts})
    return json_response(_health(request, engine))


def _health(request: Request, engine: Engine) -> dict[str, Any]:
    clock = service_of(request, Clock)
    jobs = service_of(request, JobService)
    sessions = list(engine.sessions)
    busy = sum(session.state == "busy" for session in sessions)
    return {
        # Published clients poll on at any other word.
        "status": "healthy",
        "message": "the service is running",
        **identity(request),
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


@router.get("/info", response_model=Info)
async def info(request: Request) -> Response:
    """What this machine and this service are."""
    return json_response(_info(request))


@router.get("/system", response_model=System)
async def system(request: Request) -> Response:
    """The machine, or the container where it has less: what it is, and how busy."""
    service = service_of(request, ObservabilityService)
    clock = service_of(request, Clock)
    can = features(service_of(request, Engine))
    facts = {
        **await service.machine_facts(),
        **(await service.usage()).facts,
        "capabilities": [name for name, value in can.items() if value is True],
        "uptime": round(clock.uptime, 3),
        "timestamp": utc_timestamp(),
    }
    return json_response(facts)


def _info(request: Request) -> dict[str, Any]:
    engine = service_of(request, Engine)
    clock = service_of(request, Clock)
    settings = request.app.state.settings
    address = request.scope.get("server") or (settings.host, settings.port)
    return {
        **identity(request),
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
        "workspace": str(engine.sandbox.workspace),
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
            "terminals": settings.max_terminals,
            "job_log_bytes": settings.job_log_bytes,
        },
        "isolation": engine.sandbox.confinement.facts,
        "endpoints": endpoints(request.app),
        "features": features(engine),
    }


def _hours(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}h{minute}m{second}s"
