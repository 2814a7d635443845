"""What is kept of jobs: their records and webhooks in the database, logs and outputs in folders."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from kernelagent.database import Database
from kernelagent.errors import ProcessNotFound
from kernelagent.jobs import records
from kernelagent.jobs.job import Job, JobRequest
from kernelagent.jobs.log import Gap, JobLog, Record, read_log
from kernelagent.jobs.rendering import callback_body
from kernelagent.settings import Settings
from kernelagent.web.json import dump_json
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.webhook import Delivery, Webhook

log = logging.getLogger(__name__)

_FOLDER = "jobs"
_LOG = "log"
_OUTPUTS = "outputs.json"
# Of each stream in the body of a callback and in outputs made from a log, from the end.
_TEXT_BYTES = 2**20
_EVERYTHING = 2**62


class JobArchive:
    """Jobs on disk; survives every end of the server."""

    def __init__(self, database: Database, outbox: Outbox, settings: Settings) -> None:
        self._database = database
        self.outbox = outbox
        self._folder = settings.state_dir / _FOLDER
        self._log_bytes = settings.job_log_bytes
        self._most_jobs = settings.jobs_kept
        self._most_bytes = settings.jobs_bytes

    async def open(self) -> list[tuple[Job, JobRequest | None]]:
        """The jobs that the server before this one has not finished."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        known = await self._database.run(records.ids)
        await asyncio.to_thread(_remove_others, self._folder, known)
        return await self._database.run(records.unfinished)

    async def insert(
        self, job: Job, request: JobRequest, webhook: Webhook | None, idempotency_key: str | None
    ) -> Job | None:
        """Keep a new job and its webhook; the job that has the key already instead."""

        def insert(connection: sqlite3.Connection) -> Job | None:
            earlier = records.insert(connection, job, request, idempotency_key)
            if earlier is None and webhook is not None:
                self.outbox.register(connection, webhook)
            return earlier

        return await self._database.run(insert)

    async def find_by_key(self, idempotency_key: str) -> Job | None:
        """The job that was started with this key."""
        return await self._database.run(
            lambda connection: records.find_by_key(connection, idempotency_key)
        )

    async def record(self, job: Job) -> None:
        """Keep what is known of a job now."""
        await self._database.run(lambda connection: records.update(connection, job))

    async def record_end(self, job: Job) -> None:
        """Keep how a job has ended and release its webhook, as one."""
        job.disk_bytes = await asyncio.to_thread(_folder_size, self._folder / job.id)
        texts = await self.texts(job)
        body = await asyncio.to_thread(
            lambda: dump_json(callback_body(job, texts["stdout"], texts["stderr"]))
        )

        def record(connection: sqlite3.Connection) -> bool:
            records.update(connection, job)
            return self.outbox.release(connection, job.id, body)

        if await self._database.run(record):
            self.outbox.wake()

    async def find(self, job_id: str) -> Job:
        """The job with this id, its execution's id, or a process id; raises ProcessNotFound."""
        job = await self._database.run(lambda connection: records.find(connection, job_id))
        if job is None:
            raise ProcessNotFound("no job has this id", details={"process_id": job_id[:64]})
        return job

    async def ended(self) -> list[Job]:
        """All ended jobs, oldest first."""
        return await self._database.run(records.ended)

    async def deliveries(self, job_ids: list[str]) -> dict[str, Delivery]:
        """The state of the webhooks of these jobs, by job."""
        return await self._database.run(
            lambda connection: self.outbox.deliveries(connection, job_ids)
        )

    async def delete(self, jobs: list[Job]) -> None:
        """Forget jobs with their logs and outputs."""

        def forget(connection: sqlite3.Connection) -> None:
            records.delete(connection, (job.id for job in jobs))
            for job in jobs:
                self.outbox.remove(connection, job.id)

        await self._database.run(forget)
        for job in jobs:
            await asyncio.to_thread(shutil.rmtree, self._folder / job.id, ignore_errors=True)

    async def tidy(self) -> None:
        """Leave nothing on the disk of what was erased: callers' secrets among it."""
        await self._database.tidy()

    async def prune(self) -> None:
        """Forget the oldest ended jobs beyond what is kept."""
        jobs = await self.ended()
        excess = max(len(jobs) - self._most_jobs, 0)
        total = sum(job.disk_bytes for job in jobs[excess:])
        while excess < len(jobs) and total > self._most_bytes:
            total -= jobs[excess].disk_bytes
            excess += 1
        if excess:
            await self.delete(jobs[:excess])

    def new_log(self, job: Job) -> JobLog:
        """The log that a job is to write."""
        return JobLog(self._folder / job.id / _LOG, self._log_bytes)

    async def read_log(self, job: Job, offset: int, limit: int) -> tuple[list[Record | Gap], int]:
        """About `limit` bytes of a job's log from `offset` on, and the offset behind them."""
        return await asyncio.to_thread(read_log, self._folder / job.id / _LOG, offset, limit)

    async def count_log(self, job: Job) -> None:
        """Set the numbers of a log from what is on disk, whose server has not done it."""
        entries, _ = await self.read_log(job, 0, _EVERYTHING)
        facts = job.log
        facts.stdout_bytes = facts.stderr_bytes = facts.cut_bytes = 0
        for entry in entries:
            size = entry.end - entry.offset
            if isinstance(entry, Record) and entry.stream == "stderr":
                facts.stderr_bytes += size
            else:
                facts.stdout_bytes += size
                facts.cut_bytes += size if isinstance(entry, Gap) else 0

    async def texts(self, job: Job) -> dict[str, str]:
        """The text of both streams, of each the last MiB that is kept."""
        entries, _ = await self.read_log(job, 0, _EVERYTHING)
        pieces = {"stdout": bytearray(), "stderr": bytearray()}
        for entry in entries:
            if isinstance(entry, Record):
                pieces[entry.stream] += entry.data
        return {
            name: bytes(data[-_TEXT_BYTES:]).decode("utf-8", "replace")
            for name, data in pieces.items()
        }

    async def keep_outputs(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Keep the answer that a run of code came to."""
        try:
            await asyncio.to_thread(_write_whole, self._folder / job.id / _OUTPUTS, answer)
        except OSError as error:
            log.warning("the outputs of a job could not be written: %s", error.strerror)
            job.message = f"{job.message}; its outputs could not be kept".lstrip("; ")
        else:
            job.has_outputs = True

    async def outputs(self, job: Job) -> dict[str, Any]:
        """The fields of an /execute/rich answer, as far as an ended job has them."""
        if job.has_outputs:
            data = await asyncio.to_thread((self._folder / job.id / _OUTPUTS).read_bytes)
            body: dict[str, Any] = orjson.loads(data)
            return body
        outputs = [
            {"output_type": "stream", "name": name, "text": text}
            for name, text in (await self.texts(job)).items()
            if text
        ]
        return {"outputs": outputs, "rich_outputs": []}


def _write_whole(path: Path, answer: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(dump_json(answer))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _remove_others(folder: Path, known: set[str]) -> None:
    """Remove what a server has left that was stopped while it forgot jobs."""
    for path in folder.iterdir():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
