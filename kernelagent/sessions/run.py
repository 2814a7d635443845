"""One run on one kernel: sent, followed to its end, stopped when it must be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernelagent.errors import DirectoryNotFound
from kernelagent.jupyter.events import (
    Begun,
    Event,
    Failure,
    Output,
    Prompt,
    read_event,
    read_failure,
)
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.messages import Message
from kernelagent.outcome import Outcome
from kernelagent.processes.cgroup import MemoryUse

# The reply may be lost after an interrupt, and `idle` by a faulty kernel: how long to wait for the
# second of the two. The wait for `idle` begins anew with each output.
_REPLY_GRACE = 0.05
_REPLY_GRACE_INTERRUPTED = 0.25
_IDLE_GRACE = 1.0

# Until a run has begun, an idle kernel ignores the interrupt that is meant for it.
_BEGIN_GRACE = 0.25

_KEPT = "the session's state is kept"
_LOST = "the session's state is lost"

# What a process can end with, and what C makes of the rest: more digits are no number of a system.
_is_exit_code = re.compile(r"-?[0-9]{1,19}", re.ASCII).fullmatch

# Short runs need no watch over their memory.
_MEMORY_WATCH_AFTER = 0.05


@dataclass(slots=True)
class Ending:
    """What is known once a run is over; `message` explains every outcome but ok and error.

    `state` goes on with what that means for the session, and `details` end it with what the kernel
    itself had to say.
    """

    outcome: Outcome
    exit_code: int
    execution_count: int | None
    message: str = ""
    state_lost: bool = False
    never_ran: bool = False
    # What the kernel wants its caller to know beside the output.
    note: str = ""
    state: str = ""
    details: str = ""


@dataclass(slots=True)
class RunLimits:
    """Seconds; `grace` is between the interrupt and the kill."""

    timeout: float
    grace: float


@dataclass(slots=True)
class Stop:
    """Why a run is stopped from outside."""

    outcome: Outcome
    reason: str


class Run:
    """Follows one execute_request; `go` once, `stop` and `answer` at any time.

    `tell` gets each event as the kernel sent it.
    """

    def __init__(self, kernel: Kernel, limits: RunLimits, tell: Callable[[Event], None]) -> None:
        self._kernel = kernel
        self._limits = limits
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[Stop] = self._loop.create_future()
        # Futures, since an Event takes as long to make as all of these.
        self._over_or_stopped: asyncio.Future[None] = self._loop.create_future()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._grace: asyncio.TimerHandle | None = None
        self._idle = False
        self._reply: dict[str, Any] | None = None
        self._count: int | None = None
        # The last one that was told of.
        self._error: Output | None = None
        self._allow_stdin = False
        self._interrupted = False
        self._killed = False
        self._excess: MemoryUse | None = None
        self._memory_watch: asyncio.Task[None] | None = None
        self.awaits_input = False

    async def go(self, content: dict[str, Any], metadata: dict[str, Any]) -> Ending:
        """Send the request and return when the kernel can take the next one, or is gone.

        Raises DirectoryNotFound if the kernel could not enter the run's directory.
        """
        kernel, loop = self._kernel, self._loop
        self._allow_stdin = bool(content.get("allow_stdin"))
        # First, as it can fail: nothing is to be undone yet.
        msg_id = kernel.connection.execute(content, metadata, self)
        timer = loop.call_later(
            self._limits.timeout,
            self.stop,
            Outcome.TIMEOUT,
            f"the run was stopped after its time limit of {self._limits.timeout:g} s",
        )
        kernel.used = True
        kernel.exited.add_done_callback(self._on_exit)
        watch = loop.call_later(_MEMORY_WATCH_AFTER, self._start_memory_watch)
        try:
            await self._over_or_stopped
            if not self._over.done():
                await self._interrupt()
            if kernel.exited.done() and not (self._idle and self._reply is not None):
                await kernel.connection.settle()
                return self._ending_of_death()
            if self._memory_watch is not None:
                self._excess = await asyncio.to_thread(kernel.memory.group_excess)
            return self._ending()
        finally:
            timer.cancel()
            watch.cancel()
            if self._memory_watch is not None:
                self._memory_watch.cancel()
                # The trace that it ends with leads back to here.
                self._memory_watch = None
            kernel.exited.remove_done_callback(self._on_exit)
            kernel.connection.forget(msg_id)
            if self._grace is not None:
                self._grace.cancel()

    def stop(self, outcome: Outcome, reason: str) -> None:
        """Interrupt the run, then kill it if it goes on; the first call decides the outcome."""
        if not self._stopped.done():
            self._stopped.set_result(Stop(outcome, reason))
            _complete(self._over_or_stopped)

    def answer(self, value: str) -> None:
        """Answer the prompt that the run waits for."""
        self.awaits_input = False
        self._kernel.connection.answer_input(value)

    def on_iopub(self, message: Message) -> None:
        if message.type == "status":
            if message.content.get("execution_state") == "idle":
                self._idle = True
                self._check_over()
            return
        event = read_event(message)
        if event is not None:
            self._tell(event)
        if isinstance(event, Begun):
            self._count = event.execution_count
        elif isinstance(event, Failure):
            self._error = event.output
        if self._reply is not None:
            self._wait_for_idle()
        _complete(self._begun)

    def on_reply(self, message: Message) -> None:
        self._reply = message.content
        self._check_over()

    def on_stdin(self, message: Message) -> None:
        if message.type != "input_request":
            return
        if not self._allow_stdin:
            self._kernel.connection.answer_input("")
            return
        self.awaits_input = True
        content = message.content
        self._tell(Prompt(str(content.get("prompt", "")), bool(content.get("password"))))

    def _check_over(self) -> None:
        if self._idle and self._reply is not None:
            self._finish()
        elif self._idle:
            grace = _REPLY_GRACE_INTERRUPTED if self._interrupted else _REPLY_GRACE
            self._finish_after(grace)
        else:
            self._wait_for_idle()

    def _wait_for_idle(self) -> None:
        if not self._idle:
            self._finish_after(_IDLE_GRACE)

    def _finish_after(self, seconds: float) -> None:
        if self._grace is not None:
            self._grace.cancel()
        self._grace = self._loop.call_later(seconds, self._finish)

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
            _complete(self._over_or_stopped)

    def _on_exit(self, _: object) -> None:
        self._finish()

    def _start_memory_watch(self) -> None:
        self._memory_watch = asyncio.create_task(self._watch_memory())

    async def _watch_memory(self) -> None:
        self._excess = await self._kernel.memory.watch(self._kernel.pid)
        self._kernel.kill()

    async def _interrupt(self) -> None:
        await asyncio.wait(
            (self._begun, self._over), timeout=_BEGIN_GRACE, return_when=asyncio.FIRST_COMPLETED
        )
        self._interrupted = True
        # Twice: code may catch the first one, and a signal at the very start can be lost.
        for _ in range(2):
            if self._over.done():
                return
            self._kernel.interrupt()
            await asyncio.wait((self._over,), timeout=self._limits.grace / 2)
        if not self._over.done():
            self._killed = True
            self._kernel.kill()
            await self._over

    def _ending(self) -> Ending:
        reply = self._reply or {}
        status = reply.get("status")
        count = reply.get("execution_count", self._count)
        if self._excess is not None and not self._stopped.done():
            message = f"{_used(self._excess)}; a process that the run had started was killed"
            state = f", {_KEPT}"
            return Ending(Outcome.OUT_OF_MEMORY, 137, count, message, state=state)
        told = reply.get("kernelagent") or {}
        state_lost = bool(told.get("state_lost"))
        if self._stopped.done():
            stop = self._stopped.result()
            interrupted = stop.outcome is not Outcome.INTERRUPTED
            state = _LOST if state_lost else _KEPT
            return Ending(
                stop.outcome,
                124 if stop.outcome is Outcome.TIMEOUT else 130,
                count,
                f"{stop.reason}; it was interrupted" if interrupted else stop.reason,
                state_lost,
                state=f" and {state}" if interrupted else f"; {state}",
            )
        if status in ("aborted", "abort"):
            return Ending(
                Outcome.CANCELLED,
                1,
                count,
                message="the kernel did not run the code: it was still aborting",
                never_ran=self._count is None,
            )
        error = self._error
        if status == "error" and error is None:
            if reply.get("ename") == "ScopeError":
                raise DirectoryNotFound(str(reply.get("evalue")))
            failure = read_failure(reply)
            self._tell(failure)
            error = failure.output
        note = str(told.get("note") or "")
        ending = Ending(Outcome.OK, 0, count, state_lost=state_lost, note=note)
        if error is not None and status != "ok":
            ending.exit_code = int(told.get("exit_code") or _exit_code(error))
            ending.outcome = Outcome.OK if ending.exit_code == 0 else Outcome.ERROR
        return ending

    def _ending_of_death(self) -> Ending:
        death = self._kernel.death()
        excess = self._excess or death.excess
        code = death.status.code
        signal = death.status.signal
        exit_code = 128 + signal if signal is not None else (code or 1)
        ending = Ending(Outcome.OUT_OF_MEMORY, 137, self._count, state_lost=True)
        ending.state = f"; {_LOST}"
        if excess is not None:
            ending.message = _used(excess)
            return ending
        if self._stopped.done():
            stop = self._stopped.result()
            how = (
                "it did not react to the interrupt, so its kernel was killed"
                if self._killed
                else death.describe()
            )
            ending.outcome = stop.outcome
            ending.exit_code = 124 if stop.outcome is Outcome.TIMEOUT else 130
            ending.message = f"{stop.reason}; {how}"
            ending.state = f" and {_LOST}"
            return ending
        ending.outcome = Outcome.OUT_OF_MEMORY if death.out_of_memory else Outcome.KERNEL_DIED
        ending.exit_code = exit_code
        ending.message = death.describe()
        ending.details = death.last_words.strip()
        return ending


def _used(memory: MemoryUse) -> str:
    used, limit = (round(number / 2**20) for number in (memory.used, memory.limit))
    return f"the run used {used} MiB of memory, {limit} MiB are allowed"


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _exit_code(error: Output) -> int:
    """1, or what the code itself gave to sys.exit."""
    if error["ename"] != "SystemExit":
        return 1
    value = error["evalue"].strip()
    if value in ("", "None"):
        return 0
    return int(value) & 0xFF if _is_exit_code(value) else 1
