"""A job that runs code, on a kernel of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kernelagent.commands.command import ENDING_SIGNALS
from kernelagent.errors import ApiError
from kernelagent.execution.rendering import answer, rich_outputs, slots, traceback_text
from kernelagent.jobs.job import JobEnding, JobRequest
from kernelagent.jobs.log import JobLog
from kernelagent.jupyter.events import Event, Failure, Text
from kernelagent.jupyter.outputs import Budget
from kernelagent.outcome import Outcome
from kernelagent.processes.usage import tree_usage
from kernelagent.sessions.engine import Engine
from kernelagent.sessions.execution import Execution, RunRequest
from kernelagent.sessions.session import Session

# A run may take as long as its own limit says: nobody waits for it.
_NO_LIMIT = 10 * 365 * 86400.0


class CodeWork:
    """One job's code: `go` once, `stop` at any time."""

    def __init__(self, engine: Engine, request: JobRequest, log: JobLog, execution_id: str) -> None:
        self._engine = engine
        self._request = request
        self._log = log
        self._execution_id = execution_id
        self._session: Session | None = None
        self._execution: Execution | None = None
        self._stopped = ""
        self._answer: dict[str, Any] | None = None

    async def go(self, on_start: Callable[[int], None]) -> JobEnding:
        """Run the code; `on_start` gets its kernel's process id. Raises ApiError."""
        request, settings = self._request, self._engine.settings
        run = RunRequest(
            code=request.code,
            timeout=request.timeout,
            queue_timeout=_NO_LIMIT,
            request_timeout=_NO_LIMIT,
            budget=Budget(bytes=settings.output_bytes, items=settings.output_items),
            execution_id=self._execution_id,
            spill_bytes=settings.job_log_bytes,
        )
        cwd = await self._engine.sandbox.directory(request.workdir)
        # The session's own, so that kernels take them too that cannot change them for one run.
        isolated = self._engine.isolated_session(request.language, env=request.env, cwd=cwd)
        async with isolated as session:
            await session.open()
            if session.kernel is not None:
                on_start(session.kernel.pid)
            self._session = session
            self._execution = execution = session.submit(run)
            # All of it, whatever of it the answer keeps.
            execution.uncut.follow(self._log_event)
            if self._stopped:
                session.cancel(execution, Outcome.CANCELLED, self._stopped)
            result = await asyncio.shield(execution.finished)
            kernel = session.kernel
            usage = await asyncio.to_thread(tree_usage, kernel.pid) if kernel is not None else None
        if result.message:
            self._write("stderr", f"{result.message}\n")
        # One of several MiB takes a while.
        body = self._answer = await asyncio.to_thread(answer, result, with_outputs=True)
        outcome = result.outcome
        if outcome is Outcome.KERNEL_DIED and result.exit_code - 128 in ENDING_SIGNALS:
            outcome = Outcome.CANCELLED
        return JobEnding(outcome, result.exit_code, result.message, body, usage)

    def stop(self, reason: str) -> None:
        """Interrupt the code, and kill it if that does not help; `go` returns then."""
        self._stopped = self._stopped or reason
        if self._session is not None and self._execution is not None:
            self._session.cancel(self._execution, Outcome.CANCELLED, reason)

    @property
    def shown(self) -> dict[str, Any]:
        """What it has shown so far, as fields of an answer."""
        if self._answer is not None:
            return self._answer
        collector = self._execution.collector if self._execution is not None else None
        outputs = collector.outputs if collector is not None else []
        return {**slots(outputs), "rich_outputs": rich_outputs(outputs), "outputs": outputs}

    def _log_event(self, event: Event) -> None:
        match event:
            case Text():
                self._write(event.name, event.text)
            case Failure():
                self._write("stderr", traceback_text(event.output))

    def _write(self, stream: str, text: str) -> None:
        self._log.write(stream, text.encode("utf-8", "replace"))


def refused(error: ApiError) -> JobEnding:
    """The ending of a job that could not be begun."""
    exit_code = 127 if error.code in ("LANGUAGE_NOT_AVAILABLE", "KERNEL_START_FAILED") else 1
    return JobEnding(Outcome.ERROR, exit_code, f"{error.message} ({error.code})")
