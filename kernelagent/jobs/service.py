"""Jobs: taken, queued, run, watched, killed, found again after a crash."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import orjson

from kernelagent import logs
from kernelagent.commands.command import CommandSpec, argv_of
from kernelagent.concurrency import Loop
from kernelagent.errors import ApiError, IdempotencyConflict, JobLimit, ServiceClosing
from kernelagent.jobs.archive import JobArchive
from kernelagent.jobs.code import CodeWork, refused
from kernelagent.jobs.command import CommandWork
from kernelagent.jobs.job import Job, JobEnding, JobKind, JobRequest, new_job
from kernelagent.jobs.log import Gap, JobLog, Record
from kernelagent.observers import JobEnded
from kernelagent.outcome import JobStatus, Outcome
from kernelagent.processes.process import Program
from kernelagent.processes.usage import tree_usage
from kernelagent.sessions.engine import Engine
from kernelagent.webhooks.webhook import Webhook

log = logging.getLogger(__name__)

# How often what running jobs use is looked at, and old ones are removed; seconds.
_SAMPLE_INTERVAL = 0.5
_PRUNE_INTERVAL = 2.0
_TIDY_INTERVAL = 60.0
_SHUTDOWN = "the server was shut down while it ran"
_CRASH = "the server ended while it ran"


@dataclass(slots=True)
class LiveJob:
    """A job that waits or runs."""

    job: Job
    request: JobRequest
    log: JobLog
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    # Of whoever asked: another job's end may begin it.
    origin: Context = field(default_factory=copy_context)
    work: CodeWork | CommandWork | None = None
    task: asyncio.Task[None] | None = None
    kill_reason: str = ""
    begun: float | None = None

    def start(self, pid: int) -> None:
        """It has a process now."""
        self.job.pid = pid
        self.started.set()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return 0.0 if self.begun is None else time.monotonic() - self.begun


@dataclass(slots=True)
class _Lane:
    """Jobs of one kind: so many at once, the others in order."""

    limit: int
    waiting: deque[LiveJob] = field(default_factory=deque)
    running: int = 0


class JobService:
    """Owns all jobs; `open` first, `close` in any case."""

    def __init__(self, engine: Engine, archive: JobArchive) -> None:
        self._engine = engine
        self.archive = archive
        settings = engine.settings
        self._queue_limit = settings.job_queue
        # By id; those that have ended are in the archive.
        self._live: dict[str, LiveJob] = {}
        self._lanes = {
            JobKind.CODE: _Lane(settings.job_kernels),
            JobKind.COMMAND: _Lane(settings.job_commands),
        }
        self._sweeper = Loop("jobs", self._sweep, _SAMPLE_INTERVAL)
        self._prune_due = True
        self._tidied = self._pruned = time.monotonic()
        self._closing = False

    async def open(self) -> None:
        """Tell of the jobs that a killed server has left, begin those that waited."""
        for job, request in await self.archive.open():
            if job.status is JobStatus.RUNNING or request is None:
                await self._tell_crash(job)
            else:
                self._enqueue(LiveJob(job, request, self.archive.new_log(job)))
        self._sweeper.open()

    async def close(self) -> None:
        """Stop what runs and record it; what waits is begun by the next server."""
        self._closing = True
        await self._sweeper.close()
        running = [live for live in self._live.values() if live.task is not None]
        for live in running:
            self._stop(live, _SHUTDOWN)
        await asyncio.gather(*(live.ended.wait() for live in running))

    @property
    def facts(self) -> dict[str, dict[str, int]]:
        """How many jobs run and wait, by kind."""
        return {
            kind.value: {"running": lane.running, "queued": len(lane.waiting), "limit": lane.limit}
            for kind, lane in self._lanes.items()
        }

    async def submit(
        self,
        request: JobRequest,
        *,
        prefix: str,
        name: str = "",
        webhook: Callable[[str], Webhook] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Take a job, which begins now or when its turn comes; it is on disk when this returns.

        With a key that an earlier job has, that job. `webhook` makes one for a job's id. Raises
        JobLimit, IdempotencyConflict, and what shows before the start: LanguageNotAvailable,
        DirectoryNotFound.
        """
        hook = webhook("") if webhook is not None else None
        job = new_job(request, prefix, name=name, digest=_digest(request, name, hook))
        earlier = None
        if idempotency_key is not None:
            earlier = await self.archive.find_by_key(idempotency_key)
        if earlier is None:
            await self._check(request)
            hook = webhook(job.id) if webhook is not None else None
            earlier = await self.archive.insert(job, request, hook, idempotency_key)
        if earlier is None:
            logs.job_id.set(job.id)
            logs.execution_id.set(job.execution_id)
            self._enqueue(LiveJob(job, request, self.archive.new_log(job)))
            return job
        if earlier.request_digest != job.request_digest:
            raise IdempotencyConflict(
                "this Idempotency-Key was used for another job; nothing was run",
                details={"process_id": earlier.id},
            )
        live = self._live.get(earlier.id)
        return live.job if live is not None else earlier

    async def begun(self, job: Job) -> None:
        """Wait until a job that is not queued has a process, or has ended without."""
        live = self._live.get(job.id)
        if live is not None and job.status is JobStatus.RUNNING:
            await live.started.wait()

    async def find(self, job_id: str) -> Job:
        """The job with this id, its execution's id, or a process id; raises ProcessNotFound."""
        for live in self._live.values():
            job = live.job
            if job_id in (job.id, job.execution_id) or (job.pid and job_id == str(job.pid)):
                _refresh(live)
                return job
        return await self.archive.find(job_id)

    async def list_all(self) -> list[Job]:
        """All jobs, oldest first, with fresh numbers for those that run."""
        await self._sample()
        # Looked at first: one that ends meanwhile is not missed, at most seen twice.
        live = dict(self._live)
        for entry in live.values():
            _refresh(entry)
        ended = [job for job in await self.archive.ended() if job.id not in live]
        return sorted([*ended, *(entry.job for entry in live.values())], key=_number)

    def live(self, job: Job) -> LiveJob | None:
        """What there is beyond the record of a job that has not ended."""
        return self._live.get(job.id)

    def position(self, job: Job) -> int | None:
        """The place of a job in its queue, from 1; None if it does not wait."""
        waiting = self._lanes[job.kind].waiting
        return next((place for place, live in enumerate(waiting, 1) if live.job is job), None)

    async def read_log(self, job: Job, offset: int, limit: int) -> tuple[list[Record | Gap], int]:
        """About `limit` bytes of a job's log from `offset` on, and the offset behind them.

        What was printed there but could not be kept is a gap.
        """
        live = self._live.get(job.id)
        end = job.log.bytes if live is None else live.log.written
        entries, next_offset = await self.archive.read_log(job, offset, limit)
        if not entries and next_offset < end:
            return [Gap(next_offset, end)], end
        return entries, next_offset

    async def outputs(self, job: Job) -> dict[str, Any]:
        """What a job has shown so far: fields of an /execute/rich answer."""
        live = self._live.get(job.id)
        if live is not None and isinstance(live.work, CodeWork):
            return live.work.shown
        return await self.archive.outputs(job)

    async def kill(self, job: Job, reason: str = "the job was killed on request") -> Job:
        """End a job with all its processes, and wait until it has; an ended one stays as it is."""
        live = self._live.get(job.id)
        if live is None:
            return job
        waiting = self._lanes[job.kind].waiting
        if live in waiting:
            waiting.remove(live)
            ending = JobEnding(Outcome.CANCELLED, 143, f"{reason}; it had not begun")
            live.task = asyncio.create_task(self._end(live, ending), name=f"job {job.id}")
        else:
            self._stop(live, reason)
        await live.ended.wait()
        return live.job

    async def delete(self, job: Job) -> None:
        """End a job if it runs, and forget it with its log."""
        await self.archive.delete([await self.kill(job)])

    async def _check(self, request: JobRequest) -> None:
        if request.kind is JobKind.CODE:
            self._engine.languages.find(request.language).kernelspec  # noqa: B018 - raises
        await self._engine.sandbox.directory(request.workdir)
        if self._closing:
            raise ServiceClosing("the service is shutting down")
        if len(self._lanes[request.kind].waiting) >= self._queue_limit:
            raise JobLimit(
                f"{self._queue_limit} jobs wait, as many as the settings allow; nothing was run",
                details={"limit": self._queue_limit},
            )

    def _enqueue(self, live: LiveJob) -> None:
        self._live[live.job.id] = live
        self._lanes[live.job.kind].waiting.append(live)
        self._advance(live.job.kind)

    def _advance(self, kind: JobKind) -> None:
        lane = self._lanes[kind]
        while lane.waiting and lane.running < lane.limit and not self._closing:
            live = lane.waiting.popleft()
            lane.running += 1
            live.job.status = JobStatus.RUNNING
            live.job.started_at = time.time()
            live.begun = time.monotonic()
            live.task = asyncio.create_task(
                self._run(live), name=f"job {live.job.id}", context=live.origin
            )

    async def _run(self, live: LiveJob) -> None:
        try:
            await self._end(live, await self._work(live))
        finally:
            self._lanes[live.job.kind].running -= 1
            self._advance(live.job.kind)

    async def _work(self, live: LiveJob) -> JobEnding:
        try:
            await self.archive.record(live.job)
            live.work = await self._new_work(live)
            if live.kill_reason:
                live.work.stop(live.kill_reason)
            return await live.work.go(live.start)
        except ApiError as error:
            ending = refused(error)
        except Exception as error:
            log.exception("a job failed inside the service")
            reason = f"it failed inside the service: {type(error).__name__}"
            ending = JobEnding(Outcome.ERROR, 1, reason)
        live.log.write("stderr", f"{ending.message}\n".encode())
        return ending

    async def _new_work(self, live: LiveJob) -> CodeWork | CommandWork:
        engine, request = self._engine, live.request
        if request.kind is JobKind.CODE:
            return CodeWork(engine, request, live.log, live.job.execution_id)
        sandbox = engine.sandbox
        program = Program(
            argv_of(request.command, request.args),
            sandbox.environment.of_process(request.env),
            await sandbox.directory(request.workdir) or sandbox.workspace,
            live.job.id,
        )
        grace = engine.settings.interrupt_grace
        spec = CommandSpec(program, request.timeout, grace, starter=sandbox.starter)
        return CommandWork(spec, live.log)

    def _stop(self, live: LiveJob, reason: str) -> None:
        live.kill_reason = live.kill_reason or reason
        if live.work is not None:
            live.work.stop(live.kill_reason)

    async def _end(self, live: LiveJob, ending: JobEnding) -> None:
        job = live.job
        try:
            await live.log.close()
            _refresh(live)
            _take_ending(live, ending)
            if ending.answer is not None:
                await self.archive.keep_outputs(job, ending.answer)
            await self.archive.record_end(job)
            extra = {"job_id": job.id, "status": job.status.value, "seconds": round(job.seconds, 6)}
            log.info("job ended", extra=extra)
            self._engine.sandbox.observers.tell(
                JobEnded(job.id, job.kind.value, job.status.value, job.seconds)
            )
        except Exception:
            # Whoever waits for its end must not wait for ever; the next start finds it unfinished.
            log.exception("the end of job %s could not be recorded", job.id)
        finally:
            self._prune_due = True
            self._live.pop(job.id, None)
            live.started.set()
            live.ended.set()

    async def _tell_crash(self, job: Job) -> None:
        job.status, job.outcome, job.exit_code = JobStatus.FAILED, Outcome.CANCELLED, 137
        job.message = _CRASH
        job.ended_at = time.time()
        job.seconds = max(job.ended_at - (job.started_at or job.ended_at), 0.0)
        await self.archive.count_log(job)
        await self.archive.record_end(job)

    async def _sweep(self) -> None:
        if time.monotonic() - self._tidied > _TIDY_INTERVAL:
            self._tidied = self._pruned = time.monotonic()
            await self.archive.tidy()
        await self._sample()
        if self._prune_due and time.monotonic() - self._pruned > _PRUNE_INTERVAL:
            self._pruned = time.monotonic()
            self._prune_due = False
            await self.archive.prune()

    async def _sample(self) -> None:
        for live in list(self._live.values()):
            if live.job.pid:
                _take_usage(live, *await asyncio.to_thread(tree_usage, live.job.pid))


def _take_ending(live: LiveJob, ending: JobEnding) -> None:
    job = live.job
    job.outcome = ending.outcome
    job.exit_code = ending.exit_code
    job.message = ending.message
    job.ended_at = time.time()
    if ending.usage is not None:
        _take_usage(live, *ending.usage)
    job.usage.memory_bytes = 0
    if ending.outcome is Outcome.CANCELLED and live.kill_reason != _SHUTDOWN:
        job.status = JobStatus.KILLED
    elif ending.outcome is Outcome.OK and ending.exit_code == 0:
        job.status = JobStatus.COMPLETED
    else:
        job.status = JobStatus.FAILED


def _refresh(live: LiveJob) -> None:
    job = live.job
    job.log = live.log.facts
    job.stdout, job.stderr = live.log.tail("stdout"), live.log.tail("stderr")
    job.seconds = live.seconds


def _take_usage(live: LiveJob, cpu_seconds: float, memory: int) -> None:
    usage = live.job.usage
    usage.cpu_seconds = round(max(usage.cpu_seconds, cpu_seconds), 3)
    usage.cpu_percent = round(100 * usage.cpu_seconds / max(live.seconds, 0.001), 1)
    usage.memory_bytes = memory
    usage.peak_memory_bytes = max(usage.peak_memory_bytes, memory)


def _digest(request: JobRequest, name: str, hook: Webhook | None) -> str:
    callback = None if hook is None else [hook.url, dict(hook.headers), hook.secret]
    data = orjson.dumps([request.dump(), name, callback], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()


def _number(job: Job) -> int:
    return job.number
