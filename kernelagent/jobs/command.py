"""A job that runs a command: its output goes into the job's log."""

from __future__ import annotations

from collections.abc import Callable

from kernelagent.commands.command import Command, CommandSpec
from kernelagent.jobs.job import JobEnding
from kernelagent.jobs.log import JobLog


class CommandWork:
    """One job's command: `go` once, `stop` at any time."""

    def __init__(self, spec: CommandSpec, log: JobLog) -> None:
        self._log = log
        self._command = Command(spec, log)

    async def go(self, on_start: Callable[[int], None]) -> JobEnding:
        """Run the command to its end; `on_start` gets its process id."""
        ending = await self._command.go(on_start)
        if ending.message:
            self._log.write("stderr", f"{ending.message}\n".encode())
        return JobEnding(ending.outcome, ending.exit_code, ending.message, usage=ending.usage)

    def stop(self, reason: str) -> None:
        """Ask the command to end, then kill it; `go` returns then."""
        self._command.stop(reason)
