"""GET /processes: the machine's processes, with the jobs that they belong to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from kernelagent.auth.tokens import COMMANDS, EXECUTE, METRICS
from kernelagent.jobs.job import Job
from kernelagent.jobs.rendering import process, total_memory
from kernelagent.jobs.service import JobService
from kernelagent.text import moment, utc_timestamp
from kernelagent.web.guard import principal_of
from kernelagent.web.json import json_response
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of

_SCOPES = (EXECUTE, COMMANDS, METRICS)
_LONGEST_COMMAND = 500
_FACTS = [
    "pid",
    "ppid",
    "name",
    "cmdline",
    "username",
    "status",
    "cpu_times",
    "memory_info",
    "create_time",
]

router = feature_router("observability", *_SCOPES)


class SystemProcess(BaseModel):
    """A process of the machine, or a job that has none: it waits, or has ended."""

    process_id: str = Field(description="The job's id, or the number of the process")
    execution_id: str | None = Field(None, description="Only of a job")
    pid: int
    ppid: int
    name: str
    command: str
    user: str
    status: str = Field(description="The system's word, or that of a job without a process")
    cpu_percent: float = Field(description="Of one core, on average since its start")
    memory_percent: float
    memory_mb: float
    start_time: str


class SystemProcessList(BaseModel):
    """Processes by number, then jobs that have none."""

    processes: list[SystemProcess]
    count: int
    timestamp: str


@router.get("/processes", response_model=SystemProcessList)
async def list_system_processes(request: Request) -> Response:
    """The machine's processes, those of jobs with the job's id; jobs that have none follow."""
    service = service_of(request, JobService)
    principal = principal_of(request)
    jobs = [job for job in await service.list_all() if principal.allows(job.scope)]
    return await asyncio.to_thread(_answer, jobs)


def _answer(jobs: list[Job]) -> Response:
    running = {job.pid: job for job in jobs if job.pid and not job.status.ended}
    items = [_item(facts, running.get(facts["pid"])) for facts in _system_processes()]
    shown = {item["process_id"] for item in items}
    items += [_without_process(job) for job in jobs if job.id not in shown]
    return json_response({"processes": items, "count": len(items), "timestamp": utc_timestamp()})


def _item(facts: dict[str, Any], job: Job | None) -> dict[str, Any]:
    if job is None:
        return {**facts, "process_id": str(facts["pid"])}
    mine = {"process_id": job.id, "execution_id": job.execution_id, "name": job.name}
    return {**facts, **mine}


def _without_process(job: Job) -> dict[str, Any]:
    facts = process(job)
    known = {name: facts[name] for name in SystemProcess.model_fields.keys() & facts.keys()}
    return {**known, "ppid": 0, "user": "", "memory_mb": 0.0}


def _system_processes() -> list[dict[str, Any]]:
    now = time.time()
    return [_facts(entry.info, now) for entry in psutil.process_iter(_FACTS)]


def _facts(info: dict[str, Any], now: float) -> dict[str, Any]:
    # What this user may not see of a process is None.
    times, memory = info["cpu_times"], info["memory_info"]
    used = times.user + times.system if times is not None else 0.0
    resident = memory.rss if memory is not None else 0
    began = info["create_time"] or now
    command = " ".join(info["cmdline"] or ()) or f"[{info['name']}]"
    return {
        "pid": info["pid"],
        "ppid": info["ppid"] or 0,
        "name": info["name"] or "",
        "command": _printable(command[:_LONGEST_COMMAND]),
        "user": info["username"] or "",
        "status": info["status"] or "",
        "cpu_percent": round(100 * used / max(now - began, 0.01), 1),
        "memory_percent": round(100 * resident / total_memory(), 2),
        "memory_mb": round(resident / 2**20, 2),
        "start_time": moment(began),
    }


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
