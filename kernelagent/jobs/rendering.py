"""From what is known of a job to the fields of the wire."""

from __future__ import annotations

import base64
import functools
from typing import Any

import psutil

from kernelagent.jobs.job import Job
from kernelagent.jobs.log import Gap, Record
from kernelagent.outcome import JobStatus, Outcome
from kernelagent.text import moment
from kernelagent.webhooks.webhook import Delivery


@functools.cache
def total_memory() -> int:
    """Bytes of memory that this machine has."""
    return int(psutil.virtual_memory().total)


def process(job: Job) -> dict[str, Any]:
    """An item of `GET /execute/processes`, in all spellings that published clients read."""
    started = moment(job.started_at or job.submitted_at)
    ended = moment(job.ended_at)
    seconds = round(job.seconds, 6)
    usage = job.usage
    return {
        "process_id": job.id,
        "execution_id": job.execution_id,
        "name": job.name,
        "status": job.status.value,
        "language": job.language,
        "command": job.command,
        "pid": job.pid,
        "start_time": started,
        "started_at": started,
        **({"end_time": ended, "completed_at": ended} if ended else {}),
        "exit_code": job.exit_code,
        "duration": seconds,
        "execution_time": seconds,
        "stdout": job.stdout,
        "stderr": job.stderr,
        "cpu_percent": usage.cpu_percent,
        "memory_percent": round(100 * usage.memory_bytes / total_memory(), 2),
    }


def detail(job: Job, position: int | None, delivery: Delivery | None) -> dict[str, Any]:
    """A job with all that is known of it."""
    return {
        "id": job.id,
        **process(job),
        "kind": job.kind.value,
        "outcome": job.outcome.value if job.outcome is not None else "",
        "message": job.message,
        "timeout": job.timeout,
        "submitted_at": moment(job.submitted_at),
        "queue_position": position or 0,
        "cpu_seconds": job.usage.cpu_seconds,
        "memory_bytes": job.usage.memory_bytes,
        "peak_memory_bytes": job.usage.peak_memory_bytes,
        "log": {
            "bytes": job.log.bytes,
            "stdout_bytes": job.log.stdout_bytes,
            "stderr_bytes": job.log.stderr_bytes,
            "cut_bytes": job.log.cut_bytes,
            "error": job.log.error,
        },
        "webhook": None if delivery is None else webhook(delivery),
    }


def webhook(delivery: Delivery) -> dict[str, Any]:
    """How the delivery of a job's result stands."""
    return {
        "id": delivery.id,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "last_status": delivery.last_status or 0,
        "last_error": delivery.last_error,
        "next_attempt_at": moment(delivery.due_at),
        "ended_at": moment(delivery.ended_at),
    }


def callback_body(job: Job, stdout: str, stderr: str) -> dict[str, Any]:
    """What a job's webhook carries."""
    completed = job.status is JobStatus.COMPLETED
    status = "completed" if completed else "failed"
    if job.outcome is Outcome.TIMEOUT:
        status = "timeout"
    body: dict[str, Any] = {
        "execution_id": job.execution_id,
        "process_id": job.id,
        "name": job.name,
        "language": job.language,
        "status": status,
        "success": completed,
        "outcome": job.outcome.value if job.outcome is not None else "",
        "stdout": stdout,
        "stderr": stderr,
        "exit_code": job.exit_code,
        "execution_time": round(job.seconds, 6),
        "timestamp": moment(job.ended_at),
        "log": f"/jobs/{job.id}/logs",
        "outputs": f"/jobs/{job.id}/outputs",
    }
    if not completed:
        last_line = stderr.rstrip().rpartition("\n")[2]
        body["error"] = job.message or last_line or f"exit code {job.exit_code}"
    return body


def log_message(entry: Record | Gap) -> dict[str, Any]:
    """A message of a log: a piece of one stream, or how much is missing."""
    if isinstance(entry, Gap):
        return {
            "type": "gap",
            "offset": entry.offset,
            "next_offset": entry.end,
            "bytes": entry.end - entry.offset,
            "message": "this part of the log is kept no longer",
        }
    message = {
        "type": "log",
        "stream": entry.stream,
        "offset": entry.offset,
        "next_offset": entry.end,
        "timestamp": moment(entry.time),
    }
    try:
        return {**message, "data": entry.data.decode()}
    except UnicodeDecodeError:
        exact = base64.b64encode(entry.data).decode()
        return {**message, "data": entry.data.decode("utf-8", "replace"), "data_base64": exact}


def end_message(job: Job, offset: int) -> dict[str, Any]:
    """The last message of a log that was followed to its end."""
    return {
        "type": "end",
        "status": job.status.value,
        "outcome": job.outcome.value if job.outcome is not None else "",
        "exit_code": job.exit_code,
        "message": job.message,
        "next_offset": offset,
        "timestamp": moment(job.ended_at),
    }
