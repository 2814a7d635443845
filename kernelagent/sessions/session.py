"""A session: a leased kernel with its queue of runs, its environment, directory and transcript."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernelagent.errors import (
    ApiError,
    InternalError,
    NoInputAwaited,
    QueueTimeout,
    SessionBusy,
    SessionClosed,
)
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.outputs import OutputCollector
from kernelagent.jupyter.pool import Pool
from kernelagent.observers import Observers, RunEnded, RunRefused, belong_to
from kernelagent.outcome import Outcome
from kernelagent.processes.environment import Environment
from kernelagent.sessions.execution import Execution, Result, RunRequest, make_result
from kernelagent.sessions.lease import Lease, SessionFacts
from kernelagent.sessions.queue import Queue, Turn
from kernelagent.sessions.run import Ending, Run, RunLimits
from kernelagent.sessions.transcript import Transcript
from kernelagent.workspace.spill import Spill

log = logging.getLogger(__name__)

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
    spill_bytes: int


class Session:
    """Runs code in order on one kernel and replaces the kernel when it is lost.

    `open` first; `close` in any case. One task, owned here, works the queue off.
    """

    def __init__(
        self,
        facts: SessionFacts,
        pool: Pool,
        policy: SessionPolicy,
        environment: Environment,
        observers: Observers,
    ) -> None:
        self.facts = facts
        self._observers = observers
        self._pool = pool
        self._policy = policy
        self._lease = Lease(facts, pool, policy.workspace, environment)
        self._queue = Queue(facts.id, policy.queue_limit)
        self._worker: asyncio.Task[None] | None = None
        self._current: Execution | None = None
        self._turn: Turn | None = None
        self._questions = 0
        self._closed = False
        self.created_at = datetime.now(UTC)
        self.last_activity = self.created_at
        self._active_at = time.monotonic()
        self.transcript = Transcript()

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def kernel(self) -> Kernel | None:
        """The kernel it has now; None before the first run and after a loss."""
        return self._lease.kernel

    @property
    def generation(self) -> int:
        """How many kernels it has had."""
        return self._lease.generation

    @property
    def state(self) -> str:
        """starting, idle, busy or closed."""
        if self._closed:
            return "closed"
        if self._current is not None or self._turn is not None:
            return "busy"
        return "idle" if self._lease.kernel is not None else "starting"

    @property
    def execution_count(self) -> int | None:
        """Return the count of the last run on its kernel; a branch inherits that of its source."""
        return self.transcript.execution_count(self.generation)

    @property
    def queued(self) -> int:
        """Runs that wait for their turn."""
        return len(self._queue)

    @property
    def idle_seconds(self) -> float:
        """How long nothing has run; 0 while something does, and before it has its first kernel."""
        busy = self._current is not None or self._turn is not None
        if busy or self._queue or self._questions or not self.generation:
            return 0.0
        return time.monotonic() - self._active_at

    async def open(self) -> None:
        """Lease the kernel now, so that what is wrong with it is known now."""
        await self._lease.ready()

    def submit(self, request: RunRequest) -> Execution:
        """Put a run into the queue; raises QueueFull, SessionClosed.

        Nothing happens in it before the caller awaits something, so it can be followed in full.
        """
        execution = Execution(self.id, request)
        try:
            self._enqueue(execution)
        except ApiError as error:
            self._observers.tell(RunRefused(self.facts.language.name, error.code))
            raise
        wait = min(request.queue_timeout, request.request_timeout)
        timer = asyncio.get_running_loop().call_later(wait, self._queue.expire, execution, wait)

        def over(finished: asyncio.Future[Result]) -> None:
            timer.cancel()
            self._tell_end(finished, begun=execution.begun is not None)

        # It is called in the context of now, which is that of whoever asked.
        execution.finished.add_done_callback(over)
        return execution

    @contextlib.asynccontextmanager
    async def turn(self, wait: float) -> AsyncIterator[Kernel]:
        """The session's kernel, on which nothing runs while the context is open.

        It takes its place in the queue. Raises QueueFull, QueueTimeout after `wait` seconds,
        SessionClosed, and what the lease of a kernel raises.
        """
        turn = Turn()
        self._enqueue(turn)
        try:
            try:
                async with asyncio.timeout(wait):
                    await turn.granted
            except TimeoutError:
                raise QueueTimeout(
                    f"the turn in session {self.id} did not come within {wait:g} s: it runs code",
                    details={"timeout": wait},
                ) from None
            yield await self._lease.current()
        finally:
            self._queue.remove(turn)
            turn.end()

    async def begin(self, make: Callable[[], Awaitable[Kernel]], count: int | None) -> None:
        """Have the kernel that `make` gives, as a branch; what was submitted already runs on it.

        `count` is the execution count that the kernel brings along.
        """
        kernel = await self._pool.adopt(make)
        await self._take(kernel, count)

    async def restore(self, make: Callable[[], Awaitable[Kernel]], count: int | None) -> None:
        """Have the kernel that `make` gives; if that fails, everything stays as it was.

        What runs or waits on the one it had is cancelled. `count` as for `begin`.
        """
        kernel = await self._pool.adopt(make)
        try:
            await self._clear("the session was restored", self._lease.kernel)
        except BaseException:
            await self._pool.release(kernel, polite=False)
            raise
        await self._take(kernel, count)
        self._lease.take_notes()

    def note(self, text: str) -> None:
        """Have the next answer tell this."""
        self._lease.note(text)

    def cancel(self, execution: Execution, outcome: Outcome, reason: str) -> None:
        """Stop a run, wherever it is; the result follows when its kernel is free again."""
        execution.stop(outcome, reason)
        if self._queue.remove(execution):
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
        old = self._lease.kernel
        await self._clear("the session was restarted", old)
        if old is not None:
            await self._lease.drop(old)
        await self._lease.ready()
        self._lease.take_notes()

    async def ask(self, msg_type: str, content: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Ask the kernel; the content of its reply. Raises SessionBusy if none comes in time.

        Touches neither the execution count nor the history.
        """
        if self._questions >= _QUESTIONS:
            raise SessionBusy(f"{_QUESTIONS} questions wait in session {self.id} already")
        self._questions += 1
        try:
            kernel = await self._kernel_to_ask(timeout)
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
        self._queue.close()
        self._cancel_waiting(reason)
        current = self._current
        # One that still waits for its kernel ends with the worker.
        if current is not None and current.run is not None:
            current.stop(Outcome.CANCELLED, reason)
            if self._lease.kernel is not None:
                self._lease.kernel.kill()
            await asyncio.wait([current.finished])
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            # The trace that it ends with leads back to here.
            self._worker = None
        await self._lease.close()

    def _enqueue(self, item: Execution | Turn) -> None:
        self._queue.add(item)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"session {self.id}")

    def _cancel_waiting(self, reason: str) -> None:
        for item in self._queue.waiting():
            if isinstance(item, Turn):
                self._queue.remove(item)
                item.fail(SessionClosed(reason))
            else:
                self.cancel(item, Outcome.CANCELLED, reason)

    async def _take(self, kernel: Kernel, count: int | None) -> None:
        """Make a kernel of the pool's this session's own, or end it."""
        try:
            await self._lease.replace(kernel)
        except BaseException:
            if self._lease.kernel is not kernel:
                await self._pool.release(kernel, polite=False)
            raise
        self.transcript.inherit(count, self.generation)
        self._touch()

    async def _kernel_to_ask(self, timeout: float) -> Kernel:
        try:
            async with asyncio.timeout(timeout):
                return await self._lease.ready()
        except TimeoutError:
            raise SessionBusy(
                f"session {self.id} had no kernel within {timeout:g} s",
                details={"state": self.state},
            ) from None

    async def _clear(self, reason: str, kernel: Kernel | None) -> None:
        """Cancel what waits and end what runs on `kernel`, whose state goes in any case."""
        self._cancel_waiting(reason)
        current = self._current
        if current is not None:
            current.stop(Outcome.CANCELLED, reason)
            # No ladder.
            if kernel is not None:
                kernel.kill()
            await asyncio.wait([current.finished])

    async def _work(self) -> None:
        while True:
            # Kept in no variable: all that a run has shown would stay until the next one.
            await self._serve(await self._queue.next())

    async def _serve(self, item: Execution | Turn) -> None:
        if isinstance(item, Turn):
            self._turn = item
            try:
                await item.hold()
            finally:
                self._turn = None
                self._touch()
            return
        self._current = item
        belong_to(item.origin)
        try:
            await self._execute(item)
        except ApiError as error:
            item.fail(error)
        except Exception as error:
            log.exception("a run failed inside the service")
            item.fail(error)
        except asyncio.CancelledError:
            item.fail(SessionClosed(f"session {self.id} was closed"))
            raise
        finally:
            self._current = None
            self._touch()

    async def _execute(self, execution: Execution) -> None:
        request = execution.request
        spill_bytes = self._policy.spill_bytes
        if request.spill_bytes is not None:
            spill_bytes = min(spill_bytes, request.spill_bytes)
        spill = Spill(self._policy.workspace, execution.id, spill_bytes)
        collector = execution.collect(spill)
        try:
            ending = await self._run(execution)
        finally:
            # The result has what it kept.
            execution.collector = None
            await spill.close()
        result = self._result(execution, collector, ending)
        result.late_outputs = self._lease.take_late()
        result.notes = [*self._lease.take_notes(), *filter(None, [ending.note])]
        self.transcript.add(execution, result, self.generation)
        self._log_end(result)
        execution.finish(result)
        self._pool.settled()

    def _result(self, execution: Execution, collector: OutputCollector, ending: Ending) -> Result:
        facts = self.facts
        language, isolated = facts.language.name, facts.isolated
        return make_result(execution, collector, ending, language=language, isolated=isolated)

    async def _run(self, execution: Execution) -> Ending:
        request = execution.request
        scope: dict[str, Any] = {}
        if request.env:
            scope["env"] = dict(request.env)
        if request.cwd is not None:
            scope["cwd"] = str(request.cwd)
        content = {
            "code": request.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": request.allow_stdin,
            # The queue is ours: a kernel that aborts what waits would lose runs.
            "stop_on_error": False,
        }
        for attempt in range(_ABORT_RETRIES + 1):
            kernel = await self._kernel_in_time(execution)
            if execution.begun is None:
                execution.begun = time.monotonic()
            run = Run(kernel, self._limits(execution), execution.uncut.put)
            if execution.stop_requested is not None:
                outcome, reason = execution.stop_requested
                return Ending(outcome, 130, None, message=f"{reason}; the code was not run")
            execution.run = run
            ending = await run.go(content, {"kernelagent": scope} if scope else {})
            execution.run = None
            # A kernel that has lost its state but not itself goes on.
            if ending.state_lost and not kernel.alive:
                await self._lease.drop(kernel)
            if not ending.never_ran or attempt == _ABORT_RETRIES:
                return ending
            await asyncio.sleep(_ABORT_PAUSE)
        raise AssertionError("unreachable")

    async def _kernel_in_time(self, execution: Execution) -> Kernel:
        """The kernel for a run whose turn it is; raises QueueTimeout if none starts in time."""
        kernel = self._lease.kernel
        if kernel is not None and kernel.alive and self._lease.is_current(kernel):
            return kernel
        try:
            async with asyncio.timeout(max(execution.seconds_left, 0)):
                return await self._lease.current()
        except TimeoutError:
            limit = execution.request.request_timeout
            raise QueueTimeout(
                f"session {self.id} had no kernel within {limit:g} s; the code was not run",
                details={"request_timeout": limit},
            ) from None

    def _limits(self, execution: Execution) -> RunLimits:
        timeout = min(execution.request.timeout, execution.seconds_left)
        return RunLimits(
            timeout=max(timeout, 0.001),
            grace=self._policy.interrupt_grace,
        )

    def _unrun(self, execution: Execution, outcome: Outcome, reason: str) -> Result:
        collector = execution.collect(Spill(self._policy.workspace, execution.id, 0))
        message = f"{reason}; the code was not run"
        return self._result(execution, collector, Ending(outcome, 130, None, message))

    def _tell_end(self, finished: asyncio.Future[Result], *, begun: bool) -> None:
        if finished.cancelled():
            return
        error = finished.exception()
        if error is not None:
            code = error.code if isinstance(error, ApiError) else InternalError.code
            self._observers.tell(RunRefused(self.facts.language.name, code))
            return
        result = finished.result()
        self._observers.tell(
            RunEnded(
                result.execution_id,
                self.id,
                result.language,
                result.outcome.value,
                result.exit_code,
                begun,
                result.queued_seconds,
                result.seconds,
            )
        )

    def _log_end(self, result: Result) -> None:
        log.info(
            "run finished",
            extra={
                "session_id": self.id,
                "execution_id": result.execution_id,
                "outcome": result.outcome.value,
                "seconds": round(result.seconds, 6),
                "queued_seconds": round(result.queued_seconds, 6),
            },
        )

    def _touch(self) -> None:
        self.last_activity = datetime.now(UTC)
        self._active_at = time.monotonic()
