"""Jobs in the database: every function runs on its thread, inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import orjson

from kernelagent.jobs.job import Job, JobRequest
from kernelagent.outcome import JobStatus

_LIVE = (JobStatus.QUEUED, JobStatus.RUNNING)


def insert(
    connection: sqlite3.Connection, job: Job, request: JobRequest, idempotency_key: str | None
) -> Job | None:
    """Keep a new job and give it its number; the one that has the key already instead."""
    earlier = None if idempotency_key is None else find_by_key(connection, idempotency_key)
    if earlier is not None:
        return earlier
    cursor = connection.execute(
        "INSERT INTO jobs (id, status, idempotency_key, request, record) VALUES (?, ?, ?, ?, '')",
        (job.id, job.status, idempotency_key, orjson.dumps(request.dump()).decode()),
    )
    job.number = cursor.lastrowid or 0
    update(connection, job)
    return None


def find_by_key(connection: sqlite3.Connection, idempotency_key: str) -> Job | None:
    """The job that was started with this key."""
    row = connection.execute(
        "SELECT record FROM jobs WHERE idempotency_key = ?", (idempotency_key,)
    ).fetchone()
    return None if row is None else _job(row)


def update(connection: sqlite3.Connection, job: Job) -> None:
    """Keep what is known of a job now; what it was asked to run goes once it has begun."""
    connection.execute(
        "UPDATE jobs SET status = ?, record = ?, "
        "request = CASE WHEN ? = 'queued' THEN request END WHERE id = ?",
        (job.status, orjson.dumps(job.dump()).decode(), job.status, job.id),
    )


def find(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """The job with this id, its execution's id, or the id of its process, the newest first."""
    row = connection.execute("SELECT record FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None and job_id.startswith("exec_"):
        row = connection.execute(
            "SELECT record FROM jobs WHERE record ->> 'execution_id' = ? LIMIT 1", (job_id,)
        ).fetchone()
    if row is None and job_id.isdecimal() and len(job_id) < 12:
        row = connection.execute(
            "SELECT record FROM jobs WHERE record ->> 'pid' = ? ORDER BY number DESC LIMIT 1",
            (int(job_id),),
        ).fetchone()
    return None if row is None else _job(row)


def ids(connection: sqlite3.Connection) -> set[str]:
    """The ids of all jobs."""
    return {str(row["id"]) for row in connection.execute("SELECT id FROM jobs")}


def ended(connection: sqlite3.Connection) -> list[Job]:
    """All ended jobs, oldest first."""
    rows = connection.execute(
        "SELECT record FROM jobs WHERE status NOT IN (?, ?) ORDER BY number", _LIVE
    )
    return [_job(row) for row in rows]


def unfinished(connection: sqlite3.Connection) -> list[tuple[Job, JobRequest | None]]:
    """What an earlier server left: queued jobs with what they run, and running ones."""
    rows = connection.execute(
        "SELECT record, request FROM jobs WHERE status IN (?, ?) ORDER BY number", _LIVE
    )
    return [
        (_job(row), None if row["request"] is None else JobRequest.load(orjson.loads(row[1])))
        for row in rows
    ]


def delete(connection: sqlite3.Connection, job_ids: Iterable[str]) -> None:
    """Forget jobs."""
    connection.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in job_ids])


def _job(row: sqlite3.Row) -> Job:
    return Job.load(orjson.loads(row["record"]))
