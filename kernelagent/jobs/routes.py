"""Routes of jobs: start code in the background, list, follow, kill, forget."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import Header, Query, Request
from starlette.responses import Response

from kernelagent.auth.tokens import COMMANDS, EXECUTE
from kernelagent.errors import InvalidJson, InvalidRequest, MissingParameter, ProcessNotFound
from kernelagent.jobs.job import Job, JobKind, JobRequest
from kernelagent.jobs.log import STREAMS
from kernelagent.jobs.models import (
    AsyncRequest,
    AsyncResponse,
    BackgroundCommand,
    BackgroundRequest,
    BackgroundResponse,
    CommandResponse,
    JobInfo,
    JobList,
    JobOutputs,
    KillResponse,
    LogPage,
    ProcessList,
)
from kernelagent.jobs.rendering import detail, log_message, process
from kernelagent.jobs.service import JobService
from kernelagent.jobs.streams import FollowedLog
from kernelagent.outcome import JobStatus
from kernelagent.sessions.engine import Engine
from kernelagent.text import moment, utc_timestamp
from kernelagent.web.guard import principal_of
from kernelagent.web.json import json_response
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of
from kernelagent.web.streaming import EVENT_STREAM, NDJSON, wanted_stream
from kernelagent.webhooks.webhook import Webhook

# Time limits where the request names none; seconds.
_BACKGROUND_TIMEOUT = 300.0
_ASYNC_TIMEOUT = 3600.0
_COMMAND_TIMEOUT = 300.0

_PAGE_BYTES = 1024 * 1024
_LONGEST_KEY = 255
_LARGE_ANSWER = 512 * 1024

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeat with the same key and body is answered with the job of the first",
    ),
]

code_router = feature_router("jobs", EXECUTE)
command_router = feature_router("commands", COMMANDS)
router = feature_router("jobs", EXECUTE, COMMANDS)


def _service(request: Request) -> JobService:
    return service_of(request, JobService)


def _engine(request: Request) -> Engine:
    return service_of(request, Engine)


async def _find(request: Request, job_id: str) -> Job:
    """The job, if the token may see it; else it does not exist."""
    job = await _service(request).find(job_id)
    if not principal_of(request).allows(job.scope):
        raise ProcessNotFound("no job has this id", details={"process_id": job_id[:64]})
    return job


def _timeout(request: Request, wished: float | None, default: float) -> float:
    limit: float = _engine(request).settings.max_timeout
    return min(wished or default, limit)


def _code(request: Request, wanted: BackgroundRequest, default: float) -> JobRequest:
    return JobRequest(
        kind=JobKind.CODE,
        language=_engine(request).languages.find(wanted.language).name,
        timeout=_timeout(request, wanted.timeout, default),
        code=wanted.code,
        workdir=wanted.workdir,
        env=wanted.env or {},
    )


def _scoped_key(request: Request, key: str | None) -> str | None:
    """The key as it is kept: keys of two callers, or for two routes, have nothing in common."""
    if key is None:
        return None
    if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
        raise InvalidRequest("an Idempotency-Key has 1 to 255 printable characters")
    subject = principal_of(request).subject
    return orjson.dumps([subject, request.url.path, key]).decode()


@code_router.post("/execute/background", response_model=BackgroundResponse)
async def execute_background(
    request: Request, wanted: BackgroundRequest, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Run code on a kernel of its own; answered before it runs."""
    job = await _service(request).submit(
        _code(request, wanted, _BACKGROUND_TIMEOUT),
        prefix="proc_",
        name=wanted.name or "",
        idempotency_key=_scoped_key(request, idempotency_key),
    )
    return _taken(job)


@code_router.post("/execute/async")
async def execute_async(
    request: Request, wanted: AsyncRequest, idempotency_key: IdempotencyKey = None
) -> AsyncResponse:
    """Run code on a kernel of its own and send the result to `callback_url`."""
    headers = wanted.callback_headers or {}
    secret = wanted.callback_signature_secret
    service = _service(request)
    service.archive.outbox.check(wanted.callback_url, headers)
    job = await service.submit(
        _code(request, wanted, _ASYNC_TIMEOUT),
        prefix="exec_",
        name=wanted.name or "",
        webhook=lambda job_id: Webhook(job_id, wanted.callback_url, headers, secret),
        idempotency_key=_scoped_key(request, idempotency_key),
    )
    return AsyncResponse(
        execution_id=job.id,
        process_id=job.id,
        # What published clients are promised, whether it runs already or not.
        status=JobStatus.QUEUED.value,
        callback_url=wanted.callback_url,
        message="the code will run; its result will be sent to callback_url",
        timestamp=utc_timestamp(),
    )


@command_router.post("/commands/background", response_model=CommandResponse)
async def run_command_background(
    request: Request, wanted: BackgroundCommand, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Run a command in a process group of its own; answered once it has begun, or waits."""
    service = _service(request)
    job = await service.submit(
        JobRequest(
            kind=JobKind.COMMAND,
            language="bash",
            timeout=_timeout(request, wanted.timeout, _COMMAND_TIMEOUT),
            command=wanted.command,
            args=None if wanted.args is None else tuple(wanted.args),
            workdir=wanted.workdir,
            env=wanted.env or {},
        ),
        prefix="cmd_",
        name=wanted.name or "",
        idempotency_key=_scoped_key(request, idempotency_key),
    )
    await service.begun(job)
    return {**_taken(job), "pid": job.pid, "command": job.command, "started_at": _started(job)}


def _taken(job: Job) -> dict[str, Any]:
    queued = job.status is JobStatus.QUEUED
    return {
        "process_id": job.id,
        "execution_id": job.execution_id,
        "status": job.status.value,
        "name": job.name,
        "language": job.language,
        "start_time": _started(job),
        "message": "the job waits for its turn" if queued else "the job was started",
    }


def _started(job: Job) -> str:
    return moment(job.started_at or job.submitted_at)


@router.get("/execute/processes", response_model=ProcessList)
async def list_processes(request: Request) -> Response:
    """All jobs, oldest first: code and commands, waiting, running and ended."""
    principal = principal_of(request)
    jobs = [job for job in await _service(request).list_all() if principal.allows(job.scope)]
    # A thousand of them take long enough for others to notice.
    return await asyncio.to_thread(_list_answer, jobs)


def _list_answer(jobs: list[Job]) -> Response:
    items = [process(job) for job in jobs]
    return json_response({"processes": items, "count": len(items), "timestamp": utc_timestamp()})


@router.get("/jobs", response_model=JobList)
async def list_jobs(
    request: Request,
    status: Annotated[JobStatus | None, Query(description="Only those")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Jobs with all that is known of them, newest first."""
    principal = principal_of(request)
    service = _service(request)
    jobs = [
        job
        for job in reversed(await service.list_all())
        if principal.allows(job.scope) and status in (None, job.status)
    ]
    shown = jobs[:limit]
    deliveries = await service.archive.deliveries([job.id for job in shown])
    items = [detail(job, service.position(job), deliveries.get(job.id)) for job in shown]
    answer = {"jobs": items, "count": len(items), "total": len(jobs)}
    return await asyncio.to_thread(json_response, answer)


@router.get("/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> JobInfo:
    """One job with all that is known of it."""
    return await _info(request, await _find(request, job_id))


@router.get("/jobs/{job_id}/outputs", response_model=JobOutputs)
async def get_job_outputs(request: Request, job_id: str) -> Response:
    """What a job has shown so far: text, pictures, tables, as /execute/rich answers."""
    job = await _find(request, job_id)
    ended = job.status.ended
    body = {
        **await _service(request).outputs(job),
        "process_id": job.id,
        "status": job.status.value,
        "complete": ended,
    }
    return await asyncio.to_thread(json_response, body)


@router.get(
    "/jobs/{job_id}/logs",
    response_model=LogPage,
    responses={
        200: {
            "content": {
                NDJSON: {"schema": {"type": "string"}},
                EVENT_STREAM: {"schema": {"type": "string"}},
            }
        }
    },
)
async def get_job_logs(
    request: Request,
    job_id: str,
    stream: Annotated[str | None, Query(description="stdout or stderr; both if absent")] = None,
    offset: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    tail: Annotated[int | None, Query(ge=0, le=2**40, description="The last bytes")] = None,
    limit: Annotated[int, Query(ge=1, le=8 * 2**20, description="Bytes of a page")] = _PAGE_BYTES,
    follow: Annotated[bool, Query(description="Stream until the job ends")] = False,
) -> Response:
    """What a job has printed, from `offset` on; as a stream if `Accept` or `follow` asks for one.

    Offsets count the bytes of both streams together. Go on with the last `next_offset`.
    """
    if stream is not None and stream not in STREAMS:
        raise InvalidRequest("stream is stdout or stderr")
    if offset is not None and tail is not None:
        raise InvalidRequest("give offset or tail, not both")
    service = _service(request)
    job = await _find(request, job_id)
    begin = _begin(request, job, offset, tail)
    media_type = wanted_stream(request.headers.get("accept", ""))
    if follow or media_type is not None:
        return FollowedLog(
            service,
            job,
            offset=begin,
            stream=stream,
            follow=follow,
            media_type=media_type or NDJSON,
            keepalive=_engine(request).settings.keepalive,
        )
    live = service.live(job) is not None
    entries, next_offset = await service.read_log(job, begin, limit)
    messages = [log_message(entry) for entry in entries]
    page = {
        "messages": [item for item in messages if stream in (None, item.get("stream", stream))],
        "next_offset": next_offset,
        "complete": not live and next_offset >= job.log.bytes,
        "status": job.status.value,
    }
    return await asyncio.to_thread(json_response, page)


def _begin(request: Request, job: Job, offset: int | None, tail: int | None) -> int:
    # What a browser sends that has lost the connection, to the same address as before.
    last = request.headers.get("last-event-id", "")
    if last.isdecimal() and len(last) < 20:
        return int(last)
    if tail is not None:
        return max(job.log.bytes - tail, 0)
    return offset or 0


@router.delete("/jobs/{job_id}")
async def delete_job(request: Request, job_id: str) -> KillResponse:
    """Forget a job with its log and outputs; one that runs is killed first."""
    job = await _find(request, job_id)
    await _service(request).delete(job)
    return KillResponse(process_id=job.id, status=job.status.value, message="the job was removed")


@router.post("/jobs/{job_id}/kill")
async def kill_job(request: Request, job_id: str) -> KillResponse:
    """End a job with all its processes: asked to terminate, then killed."""
    return await _kill(request, job_id)


@router.post("/execute/kill/{process_id}")
async def kill_process(request: Request, process_id: str) -> KillResponse:
    """As /jobs/{job_id}/kill; also takes the id of its process."""
    return await _kill(request, process_id)


@router.post("/processes/{process_id}/kill")
async def kill_system_process(request: Request, process_id: str) -> KillResponse:
    """As /execute/kill/{process_id}."""
    return await _kill(request, process_id)


@router.post("/execute/kill", operation_id="kill_named_process")
@router.delete("/execute/kill", operation_id="delete_named_process")
async def kill_named_process(
    request: Request, process_id: Annotated[str | None, Query()] = None
) -> KillResponse:
    """As /execute/kill/{process_id}, with the id in the query or in a JSON body."""
    if process_id is None:
        process_id = _named(await request.body())
    return await _kill(request, process_id)


def _named(body: bytes) -> str:
    try:
        data = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error.msg}") from None
    value = data.get("process_id") if isinstance(data, dict) else None
    if value is None or value == "" or not isinstance(value, str | int):
        raise MissingParameter("process_id is required: in the query, the body or the path")
    return str(value)


async def _kill(request: Request, process_id: str) -> KillResponse:
    job = await _find(request, process_id)
    ended = job.status.ended
    job = await _service(request).kill(job)
    status = job.status.value
    message = f"the job had ended before: {status}" if ended else f"the job has ended: {status}"
    return KillResponse(process_id=job.id, status=status, message=message)


async def _info(request: Request, job: Job) -> JobInfo:
    service = _service(request)
    deliveries = await service.archive.deliveries([job.id])
    return JobInfo(**detail(job, service.position(job), deliveries.get(job.id)))
