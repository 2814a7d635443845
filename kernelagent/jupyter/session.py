"""A session: a leased kernel with its queue of runs, its environment, directory and transcript."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernelagent.errors import (
    ApiError,
    InvalidRequest,
    NoInputAwaited,
    QueueFull,
    QueueTimeout,
    SessionBusy,
    SessionClosed,
)
from kernelagent.jupyter.execution import Begun, Execution, Feed, Prompt, Result, RunRequest
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.languages import Language
from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import Budget, OutputCollector
from kernelagent.jupyter.pool import Pool
from kernelagent.jupyter.run import Ending, Outcome, Run, RunLimits
from kernelagent.jupyter.spill import Spill

log = logging.getLogger(__name__)

_TRANSCRIPT = 100
_LATE_OUTPUT = Budget(bytes=256 * 1024, items=50)
# Questions (completion and the like) that may wait for one kernel.
_QUESTIONS = 16
# A kernel that still aborts what it was sent before is asked again.
_ABORT_RETRIES = 3
_ABORT_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What holds for every session; seconds and bytes."""

    workspace: Path
    queue_limit: int
    interrupt_grace: float
    kernel_memory: int
    spill_bytes: int


@dataclass(slots=True)
class TranscriptEntry:
    """What a session remembers of a run; neither its code nor its output."""

    execution_id: str
    execution_count: int | None
    outcome: Outcome
    submitted_at: datetime
    seconds: float


@dataclass(slots=True)
class SessionFacts:
    """Who a session is."""

    id: str
    language: Language
    is_default: bool = False
    name: str = ""
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    idle_timeout: float = 0.0


class Session:
    """Runs code in order on one kernel and replaces the kernel when it is lost.

    `open` first; `close` in any case. One task, owned here, works the queue off.
    """

    def __init__(self, facts: SessionFacts, pool: Pool, policy: SessionPolicy) -> None:
        self.facts = facts
        self._pool = pool
        self._policy = policy
        self._kernel: Kernel | None = None
        self._kernel_lock = asyncio.Lock()
        self._queue: deque[Execution] = deque()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._current: Execution | None = None
        self._questions = 0
        self._closed = False
        self._notes: list[str] = []
        self._late = self._new_late_collector()
        self.generation = 0
        self.runs = 0
        self.created_at = datetime.now(UTC)
        self.last_activity = self.created_at
        self._active_at = time.monotonic()
        self.transcript: deque[TranscriptEntry] = deque(maxlen=_TRANSCRIPT)

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def kernel(self) -> Kernel | None:
        """The kernel it has now; None before the first run and after a loss."""
        return self._kernel

    @property
    def state(self) -> str:
        """starting, idle, busy or closed."""
        if self._closed:
            return "closed"
        if self._current is not None:
            return "busy"
        return "idle" if self._kernel is not None else "starting"

    @property
    def queued(self) -> int:
        """Runs that wait for their turn."""
        return len(self._queue)

    @property
    def idle_seconds(self) -> float:
        """How long nothing has run; 0 while something does."""
        if self._current is not None or self._queue or self._questions:
            return 0.0
        return time.monotonic() - self._active_at

    async def open(self) -> None:
        """Lease the kernel now, so that what is wrong with it is known now."""
        await self._ready_kernel()

    def submit(self, request: RunRequest, *, feed: Feed | None = None) -> Execution:
        """Put a run into the queue; raises QueueFull, SessionClosed."""
        if self._closed:
            raise SessionClosed(f"session {self.id} was closed")
        limit = self._policy.queue_limit
        if len(self._queue) >= limit:
            raise QueueFull(
                f"{limit} runs wait in session {self.id}, as many as the settings allow; the code "
                "was not run",
                details={"position": len(self._queue) + 1, "limit": limit},
            )
        execution = Execution(self.id, request, feed)
        self._queue.append(execution)
        self._wake.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"session {self.id}")
        wait = min(request.queue_timeout, request.request_timeout)
        timer = asyncio.get_running_loop().call_later(wait, self._expire, execution, wait)
        execution.finished.add_done_callback(lambda _: timer.cancel())
        return execution

    def cancel(self, execution: Execution, outcome: Outcome, reason: str) -> None:
        """Stop a run, wherever it is; the result follows when its kernel is free again."""
        execution.stop(outcome, reason)
        if execution in self._queue:
            self._queue.remove(execution)
            execution.finish(self._unrun(execution, outcome, reason))

    def interrupt(self) -> bool:
        """Interrupt what runs now; whether there was something."""
        if self._current is None:
            return False
        self._current.stop(Outcome.INTERRUPTED, "the run was interrupted on request")
        return True

    def answer_input(self, value: str, *, execution_id: str | None = None) -> None:
        """Answer the prompt that the running code waits for; raises NoInputAwaited."""
        current = self._current
        if (
            current is None
            or current.run is None
            or not current.run.awaits_input
            or (execution_id is not None and current.id != execution_id)
        ):
            raise NoInputAwaited(f"nothing in session {self.id} asks for input")
        current.run.answer(value)

    async def restart(self) -> None:
        """Give the session a fresh kernel; what runs or waits is cancelled."""
        reason = "the session was restarted"
        for execution in list(self._queue):
            self.cancel(execution, Outcome.CANCELLED, reason)
        current = self._current
        if current is not None:
            current.stop(Outcome.CANCELLED, reason)
            # No ladder: the state goes in any case.
            if self._kernel is not None:
                self._kernel.kill()
            await asyncio.wait([current.finished])
        async with self._kernel_lock:
            await self._drop_kernel()
        await self._ready_kernel()
        self._notes.clear()

    async def ask(self, msg_type: str, content: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Ask the kernel; the content of its reply. Raises SessionBusy if none comes in time.

        Touches neither the execution count nor the history.
        """
        if self._questions >= _QUESTIONS:
            raise SessionBusy(f"{_QUESTIONS} questions wait in session {self.id} already")
        self._questions += 1
        try:
            kernel = await self._ready_kernel()
            answer = asyncio.ensure_future(kernel.connection.ask(msg_type, content))
            either: list[asyncio.Future[Any]] = [answer, kernel.exited]
            try:
                await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if answer.done() and not answer.cancelled():
                    return answer.result().content
            finally:
                answer.cancel()
            raise SessionBusy(
                f"session {self.id} did not answer within {timeout:g} s: "
                + ("a run occupies it" if self._current else "its kernel is not responding"),
                details={"state": self.state},
            )
        finally:
            self._questions -= 1
            self._touch()

    async def close(self, reason: str = "the session was closed") -> None:
        """Cancel what waits, end what runs and the kernel."""
        self._closed = True
        for execution in list(self._queue):
            self.cancel(execution, Outcome.CANCELLED, reason)
        current = self._current
        if current is not None:
            current.stop(Outcome.CANCELLED, reason)
            if self._kernel is not None:
                self._kernel.kill()
            await asyncio.wait([current.finished])
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        async with self._kernel_lock:
            await self._drop_kernel()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                execution = self._current = self._queue.popleft()
                try:
                    await self._execute(execution)
                except ApiError as error:
                    execution.fail(error)
                except Exception as error:
                    log.exception("a run failed inside the service")
                    execution.fail(error)
                except asyncio.CancelledError:
                    execution.fail(SessionClosed(f"session {self.id} was closed"))
                    raise
                finally:
                    self._current = None
                    self._touch()

    async def _execute(self, execution: Execution) -> None:
        request = execution.request
        execution.begun = time.monotonic()
        queued = execution.begun - execution.submitted
        spill = Spill(self._policy.workspace, execution.id, self._policy.spill_bytes)
        collector = OutputCollector(request.budget, spill, execution.emit)
        try:
            ending = await self._run(execution, collector, queued)
        finally:
            await spill.close()
        if ending.message:
            collector.add_text("stderr", _on_own_line(collector, ending.message))
        finished = time.monotonic()
        self.runs += 1
        result = Result(
            execution_id=execution.id,
            session_id=self.id,
            language=self.facts.language.name,
            outcome=ending.outcome,
            exit_code=ending.exit_code,
            execution_count=ending.execution_count,
            message=ending.message,
            state_lost=ending.state_lost,
            outputs=collector.outputs,
            updates=collector.updates,
            late_outputs=self._take_late(),
            error=collector.error,
            truncation=collector.truncation,
            queued_seconds=queued,
            seconds=finished - execution.begun,
            finished_at=datetime.now(UTC),
            notes=self._take_notes(),
        )
        self._remember(execution, result)
        execution.finish(result)
        self._pool.settled()

    async def _run(self, execution: Execution, collector: OutputCollector, queued: float) -> Ending:
        request = execution.request
        timeout = max(min(request.timeout, request.request_timeout - queued), 0.001)
        content = {
            "code": request.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": request.allow_stdin,
            # The queue is ours: a kernel that aborts what waits would lose runs.
            "stop_on_error": False,
        }
        scope: dict[str, Any] = {}
        if request.env:
            scope["env"] = dict(request.env)
        if request.cwd is not None:
            scope["cwd"] = str(request.cwd)
        metadata = {"kernelagent": scope} if scope else {}
        limits = RunLimits(timeout, self._policy.interrupt_grace, self._policy.kernel_memory)
        for attempt in range(_ABORT_RETRIES + 1):
            kernel = await self._ready_kernel()
            run = Run(
                kernel,
                collector,
                limits,
                on_begin=lambda count: execution.emit(Begun(count)),
                on_prompt=lambda prompt, password: execution.emit(Prompt(prompt, password)),
            )
            execution.run = run
            if execution.stop_requested is not None:
                outcome, reason = execution.stop_requested
                return Ending(outcome, 130, None, message=f"{reason}; it had not begun")
            ending = await run.go(content, metadata)
            execution.run = None
            if ending.state_lost:
                async with self._kernel_lock:
                    await self._drop_kernel()
            if not ending.never_ran or attempt == _ABORT_RETRIES:
                return ending
            await asyncio.sleep(_ABORT_PAUSE)
        raise AssertionError("unreachable")

    async def _ready_kernel(self) -> Kernel:
        """The session's kernel, alive; leases another one if it was lost."""
        kernel = self._kernel
        if kernel is not None and kernel.alive:
            return kernel
        async with self._kernel_lock:
            if self._closed:
                raise SessionClosed(f"session {self.id} was closed")
            kernel = self._kernel
            if kernel is not None and kernel.alive:
                return kernel
            if kernel is not None:
                self._notes.append(
                    f"{kernel.death().describe()} since the last run: this one had a fresh state"
                )
                await self._drop_kernel()
            kernel = await self._pool.lease()
            try:
                await kernel.configure(self.facts.env, self.facts.cwd)
            except TimeoutError:
                await self._pool.release(kernel, polite=False)
                raise SessionBusy("the kernel did not take its environment in time") from None
            except BaseException:
                await self._pool.release(kernel, polite=False)
                raise
            kernel.on_late = self._on_late
            self.generation += 1
            self._kernel = kernel
            return kernel

    async def _drop_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.on_late = None
            await self._pool.release(kernel)

    def _expire(self, execution: Execution, waited: float) -> None:
        if execution not in self._queue:
            return
        self._queue.remove(execution)
        execution.fail(
            QueueTimeout(
                f"the run's turn in session {self.id} did not come within {waited:g} s; the code "
                "was not run",
                details={"queue_timeout": waited},
            )
        )

    def _unrun(self, execution: Execution, outcome: Outcome, reason: str) -> Result:
        waited = time.monotonic() - execution.submitted
        collector = OutputCollector(
            execution.request.budget,
            Spill(self._policy.workspace, execution.id, 0),
            execution.emit,
        )
        message = f"{reason}; the code was not run"
        collector.add_text("stderr", f"{message}\n")
        return Result(
            execution_id=execution.id,
            session_id=self.id,
            language=self.facts.language.name,
            outcome=outcome,
            exit_code=130,
            execution_count=None,
            message=message,
            state_lost=False,
            outputs=collector.outputs,
            updates=[],
            late_outputs=[],
            error=None,
            truncation=collector.truncation,
            queued_seconds=waited,
            seconds=0.0,
            finished_at=datetime.now(UTC),
            notes=[],
        )

    def _remember(self, execution: Execution, result: Result) -> None:
        self.transcript.append(
            TranscriptEntry(
                execution.id,
                result.execution_count,
                result.outcome,
                execution.submitted_at,
                result.seconds,
            )
        )

    def _new_late_collector(self) -> OutputCollector:
        return OutputCollector(
            _LATE_OUTPUT, Spill(self._policy.workspace, "late", 0), lambda _: None
        )

    def _on_late(self, message: Message) -> None:
        self._late.take(message)

    def _take_late(self) -> list[dict[str, Any]]:
        outputs = self._late.outputs
        if outputs:
            self._late = self._new_late_collector()
        return outputs

    def _take_notes(self) -> list[str]:
        notes, self._notes = self._notes, []
        return notes

    def _touch(self) -> None:
        self.last_activity = datetime.now(UTC)
        self._active_at = time.monotonic()


def _on_own_line(collector: OutputCollector, message: str) -> str:
    outputs = collector.outputs
    last = outputs[-1] if outputs else None
    mid_line = (
        last is not None
        and last.get("name") == "stderr"
        and last["text"]
        and not last["text"].endswith("\n")
    )
    return f"\n{message}\n" if mid_line else f"{message}\n"


def check_directory(cwd: str | None, workspace: Path) -> Path | None:
    """The absolute directory that `cwd` names, relative to the workspace; None if it is None.

    Raises InvalidRequest for a name that no path can have. Existence is the caller's to check, in
    a thread.
    """
    if cwd is None or cwd == "":
        return None
    if "\0" in cwd:
        raise InvalidRequest("workdir contains a NUL character")
    return workspace / Path(cwd).expanduser()
