"""One run as its caller sees it: a request, a place in the queue, events, a result."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kernelagent.jupyter.events import Output, Update
from kernelagent.jupyter.outputs import Budget, OutputCollector, Truncation
from kernelagent.outcome import Outcome
from kernelagent.sessions.events import Events, Feed
from kernelagent.sessions.run import Ending, Run
from kernelagent.workspace.spill import Spill


@dataclass(slots=True)
class RunRequest:
    """What is to be run, and within which limits (seconds)."""

    code: str
    timeout: float
    queue_timeout: float
    request_timeout: float
    budget: Budget
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    allow_stdin: bool = False
    # The id that the run is to have.
    execution_id: str | None = None
    # Instead of what the settings allow for the files of one run's excess output.
    spill_bytes: int | None = None


@dataclass(slots=True)
class Result:
    """What a run came to."""

    execution_id: str
    session_id: str
    language: str
    outcome: Outcome
    exit_code: int
    execution_count: int | None
    message: str
    state_lost: bool
    outputs: list[Output]
    updates: list[Update]
    error: Output | None
    truncation: Truncation
    queued_seconds: float
    seconds: float
    finished_at: datetime
    late_outputs: list[Output] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.OK and self.exit_code == 0


class Execution:
    """A run from its request to its result; made by `Session.submit`.

    `events` has what the answer keeps of what happens, `uncut` the same before the output budget
    cuts it. Either can be followed by several at any time.
    """

    def __init__(self, session_id: str, request: RunRequest) -> None:
        # Tells runs apart and guards nothing, so it need not be hard to guess.
        self.id = request.execution_id or f"exec_{random.getrandbits(80):020x}"
        self.session_id = session_id
        self.request = request
        self.events = Events()
        self.uncut = Events()
        # Of whoever asked: the worker that runs it has another one.
        self.origin: Context = copy_context()
        self.submitted = time.monotonic()
        self.submitted_at = datetime.now(UTC)
        self.begun: float | None = None
        self.run: Run | None = None
        # What it has shown so far, while it runs.
        self.collector: OutputCollector | None = None
        self.stop_requested: tuple[Outcome, str] | None = None
        self.finished: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        # The caller may be gone when an error ends the wait: asyncio would complain.
        self.finished.add_done_callback(_retrieve)

    @property
    def seconds_left(self) -> float:
        """What is left of the time for queue and run together; negative if none is."""
        return self.request.request_timeout - (time.monotonic() - self.submitted)

    def follow(self, feed: Feed) -> None:
        """Pass `events` to `feed` from now on, and close it when the run is over."""
        self.events.follow(feed.put)
        self.finished.add_done_callback(lambda _: feed.close())

    def collect(self, spill: Spill) -> OutputCollector:
        """Begin to keep what is shown, with `spill` for what exceeds the budget."""
        collector = self.collector = OutputCollector(self.request.budget, spill, self.events.put)
        self.uncut.follow(collector.take)
        return collector

    def stop(self, outcome: Outcome, reason: str) -> None:
        """Stop the run, or keep it from starting; its result says `reason`."""
        if self.stop_requested is None:
            self.stop_requested = (outcome, reason)
        if self.run is not None:
            self.run.stop(outcome, reason)

    def finish(self, result: Result) -> None:
        """Hand the result to whoever waits."""
        if not self.finished.done():
            self.finished.set_result(result)

    def fail(self, error: Exception) -> None:
        """The code was not run, for `error`."""
        if not self.finished.done():
            self.finished.set_exception(error)


def make_result(
    execution: Execution,
    collector: OutputCollector,
    ending: Ending,
    *,
    language: str,
    isolated: bool,
) -> Result:
    """Return what a run came to; its last sentence, if any, is shown on stderr."""
    message = ending.message
    if not isolated:
        message += ending.state
    if ending.details:
        message += f"\n{ending.details}"
    if message:
        collector.add_text("stderr", _on_own_line(collector, message))
    now = time.monotonic()
    begun = now if execution.begun is None else execution.begun
    return Result(
        execution_id=execution.id,
        session_id=execution.session_id,
        language=language,
        outcome=ending.outcome,
        exit_code=ending.exit_code,
        execution_count=ending.execution_count,
        message=message,
        state_lost=ending.state_lost,
        outputs=collector.outputs,
        updates=collector.updates,
        error=collector.error,
        truncation=collector.truncation,
        queued_seconds=begun - execution.submitted,
        seconds=now - begun,
        finished_at=datetime.now(UTC),
    )


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


def _retrieve(future: asyncio.Future[Result]) -> None:
    if not future.cancelled():
        future.exception()
