"""Runs commands whose end is waited for."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from kernelagent import logs
from kernelagent.commands.command import Command, CommandEnding, CommandSpec, Sink, argv_of
from kernelagent.commands.models import RunRequest
from kernelagent.commands.output import KeptOutput
from kernelagent.concurrency import CLIENT_LEFT, Disconnected, ends_first
from kernelagent.errors import CommandLimit, ServiceClosing
from kernelagent.observers import CommandEnded
from kernelagent.outcome import Outcome
from kernelagent.processes.process import Program
from kernelagent.sandbox import Sandbox
from kernelagent.text import utc_timestamp
from kernelagent.workspace.spill import Spill

_TIMEOUT = 30.0


@dataclass(eq=False, slots=True)
class RunningCommand:
    """A command that is on its way, and what it is."""

    id: str
    shown: str
    command: Command
    pid: int = 0
    begun: bool = False

    def take_pid(self, pid: int) -> None:
        """It has started."""
        self.pid = pid


class CommandService:
    """What the routes of commands share. `close` ends what runs."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._running: dict[RunningCommand, None] = {}
        self._none_runs = asyncio.Event()
        self._none_runs.set()
        self._closing = False

    @property
    def running(self) -> int:
        """How many commands run or are about to."""
        return len(self._running)

    async def close(self) -> None:
        """End what runs, and wait until it has ended."""
        self._closing = True
        for running in self._running:
            running.command.stop("the server shuts down")
        await self._none_runs.wait()

    async def prepare(
        self, request: RunRequest, sink: Sink, command_id: str | None = None
    ) -> RunningCommand:
        """The command, to be passed to `go`; it has its place among those that may run.

        Raises DirectoryNotFound, CommandLimit, ServiceClosing. In any case `give_up` must follow.
        """
        self._check_room()
        sandbox, settings = self.sandbox, self.sandbox.settings
        cwd = await sandbox.directory(request.workdir) or sandbox.workspace
        command_id = command_id or _new_id()
        logs.command_id.set(command_id)
        argv = argv_of(request.command, request.args)
        spec = CommandSpec(
            Program(argv, sandbox.environment.of_process(request.env), cwd, command_id),
            min(request.timeout or _TIMEOUT, settings.max_timeout),
            settings.interrupt_grace,
            None if request.stdin is None else request.stdin.encode(),
            sandbox.starter,
        )
        shown = " ".join([request.command, *(request.args or ())])
        running = RunningCommand(command_id, shown, Command(spec, sink))
        # Others may have come meanwhile.
        self._check_room()
        self._running[running] = None
        self._none_runs.clear()
        return running

    async def go(self, running: RunningCommand) -> CommandEnding:
        """Run it to its end; until then it keeps its place, whoever waits for it."""
        running.begun = True
        self._running[running] = None
        self._none_runs.clear()
        try:
            ending = await running.command.go(running.take_pid)
            self.sandbox.observers.tell(
                CommandEnded(running.id, ending.outcome.value, ending.exit_code, ending.seconds)
            )
            return ending
        finally:
            self._leave(running)

    def give_up(self, running: RunningCommand) -> None:
        """Free the place of a command that was not begun."""
        if not running.begun:
            self._leave(running)

    def _leave(self, running: RunningCommand) -> None:
        self._running.pop(running, None)
        if not self._running:
            self._none_runs.set()

    def _check_room(self) -> None:
        if self._closing:
            raise ServiceClosing("the service is shutting down")
        limit = self.sandbox.settings.max_commands
        if len(self._running) >= limit:
            raise CommandLimit(
                f"{limit} commands run, as many as the settings allow; nothing was run",
                details={"limit": limit},
            )

    async def run(self, request: RunRequest, disconnected: Disconnected) -> dict[str, Any] | None:
        """The answer to a command; None if the caller left, which ends it."""
        settings = self.sandbox.settings
        budget = min(request.max_output_bytes or settings.output_bytes, settings.max_output_bytes)
        command_id = _new_id()
        spill = Spill(self.sandbox.workspace, command_id, settings.spill_bytes)
        output = KeptOutput(budget, spill)
        try:
            running = await self.prepare(request, output, command_id)
            try:
                ending = await self._until_end(running, disconnected)
            finally:
                self.give_up(running)
        finally:
            await spill.close()
        if ending is None:
            return None
        return await asyncio.to_thread(_answer, running, ending, output)

    async def _until_end(
        self, running: RunningCommand, disconnected: Disconnected
    ) -> CommandEnding | None:
        work = asyncio.create_task(self.go(running), name=running.id)
        try:
            if await ends_first(work, disconnected):
                return work.result()
            return None
        finally:
            running.command.stop(CLIENT_LEFT)
            # In any case: what was started must have ended when this returns.
            await asyncio.shield(asyncio.wait([work]))


def _new_id() -> str:
    return f"cmd_{uuid.uuid4().hex[:20]}"


def facts(running: RunningCommand, ending: CommandEnding) -> dict[str, Any]:
    """The fields that every answer and every stream's result carry."""
    answer: dict[str, Any] = {
        "command_id": running.id,
        "exit_code": ending.exit_code,
        "success": ending.outcome is Outcome.OK,
        "outcome": ending.outcome.value,
        "execution_time": round(ending.seconds, 6),
        "command": running.shown,
        "pid": running.pid,
        "message": ending.message,
        "timestamp": utc_timestamp(),
    }
    if ending.outcome is Outcome.TIMEOUT:
        answer |= {"timed_out": True, "code": "EXECUTION_TIMEOUT"}
    return answer


def _answer(running: RunningCommand, ending: CommandEnding, output: KeptOutput) -> dict[str, Any]:
    fields = output.fields()
    if ending.message:
        stderr = fields["stderr"]
        line = "" if not stderr or stderr.endswith("\n") else "\n"
        fields["stderr"] = f"{stderr}{line}{ending.message}\n"
    truncation = output.truncation()
    return {
        **facts(running, ending),
        **fields,
        "truncated": truncation["truncated"],
        "truncation": truncation,
    }
