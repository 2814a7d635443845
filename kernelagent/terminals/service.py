"""All terminals: how many there are, which have names, and when those go."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from kernelagent.commands.command import argv_of
from kernelagent.concurrency import Loop
from kernelagent.errors import (
    ServiceClosing,
    TerminalBusy,
    TerminalExists,
    TerminalLimit,
    TerminalNotFound,
    TerminalStartFailed,
)
from kernelagent.processes.process import Program
from kernelagent.sandbox import Sandbox
from kernelagent.terminals.models import CreateTerminal
from kernelagent.terminals.terminal import Terminal, TerminalSpec

# A client that takes nothing for so long no longer holds a named terminal's program up.
_PATIENCE = 2.0
_SWEEP_INTERVAL = 1.0
# Whatever looks at it speaks UTF-8 and understands xterm's sequences.
_TERM = "xterm-256color"
_LOCALE = "C.UTF-8"


class TerminalService:
    """What the routes of terminals share. `close` ends them all: they do not outlive the server."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._running: set[Terminal] = set()
        self._named: dict[str, Terminal] = {}
        self._sweeper = Loop("terminal expiry", self._sweep, _SWEEP_INTERVAL)
        self._closing = False

    async def open(self) -> None:
        """See to it that what is too old goes; `close` is owed."""
        self._sweeper.open()

    async def close(self) -> None:
        """End all of them, and wait until they have ended."""
        self._closing = True
        await self._sweeper.close()
        await asyncio.gather(*(terminal.close() for terminal in list(self._running)))
        self._named.clear()

    @property
    def running(self) -> int:
        """How many run, those without a name too."""
        return len(self._running)

    @property
    def named(self) -> list[Terminal]:
        """All that have a name, oldest first, those that have ended too."""
        return list(self._named.values())

    async def start(self, cols: int, rows: int) -> Terminal:
        """A shell without a name; raises TerminalLimit, TerminalStartFailed."""
        spec = await self._spec(CreateTerminal(cols=cols, rows=rows))
        return self._start(spec)

    async def create(self, wanted: CreateTerminal) -> Terminal:
        """A named terminal; raises TerminalExists, TerminalLimit, TerminalStartFailed too."""
        settings = self.sandbox.settings
        spec = await self._spec(wanted, scrollback=settings.terminal_scrollback, patience=_PATIENCE)
        if spec.name in self._named:
            raise TerminalExists(f"there is a terminal with this id: {spec.name}")
        terminal = self._start(spec)
        self._named[spec.name] = terminal
        return terminal

    def find(self, name: str) -> Terminal:
        """The terminal of this name; raises TerminalNotFound."""
        terminal = self._named.get(name)
        if terminal is None:
            raise TerminalNotFound("no terminal has this id")
        return terminal

    async def delete(self, name: str) -> Terminal:
        """End a terminal and forget it; raises TerminalNotFound."""
        terminal = self.find(name)
        await terminal.close()
        if self._named.get(name) is terminal:
            del self._named[name]
        return terminal

    def check_free(self, terminal: Terminal) -> None:
        """Raise TerminalBusy if a client is at it."""
        if terminal.view is not None:
            raise TerminalBusy("another client is at this terminal")

    async def _spec(
        self,
        wanted: CreateTerminal,
        *,
        scrollback: int | None = None,
        patience: float = float("inf"),
    ) -> TerminalSpec:
        sandbox = self.sandbox
        cwd = await sandbox.directory(wanted.workdir) or sandbox.workspace
        argv = (_shell(),) if wanted.command is None else argv_of(wanted.command, wanted.args)
        variables = self._environment(wanted.env or {})
        if not await asyncio.to_thread(_exists, argv[0], variables, cwd):
            raise TerminalStartFailed(f"{argv[0]} is no program, or none that may be run")
        terminal_id = f"term_{uuid.uuid4().hex[:20]}"
        return TerminalSpec(
            terminal_id,
            wanted.id or terminal_id,
            Program(argv, variables, cwd, terminal_id),
            wanted.cols,
            wanted.rows,
            sandbox.settings.interrupt_grace,
            scrollback,
            patience,
            sandbox.starter,
        )

    def _environment(self, wanted: Mapping[str, str]) -> dict[str, str]:
        environment = self.sandbox.environment
        # The service's own terminal, if it has one, is another.
        term = environment.variables.get("TERM", _TERM)
        variables = environment.of_process({"TERM": term, **wanted})
        if not any(variables.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")):
            variables["LANG"] = _LOCALE
        # They would hide the size that the terminal has.
        for name in ("COLUMNS", "LINES"):
            variables.pop(name, None)
        return variables

    def _start(self, spec: TerminalSpec) -> Terminal:
        if self._closing:
            raise ServiceClosing("the service is shutting down")
        limit = self.sandbox.settings.max_terminals
        if len(self._running) >= limit:
            raise TerminalLimit(
                f"{limit} terminals run, as many as the settings allow", details={"limit": limit}
            )
        terminal = Terminal.start(spec, on_end=self._running.discard)
        self._running.add(terminal)
        return terminal

    async def _sweep(self) -> None:
        settings = self.sandbox.settings
        now = time.monotonic()
        for name, terminal in list(self._named.items()):
            if terminal.ended.is_set():
                if now - terminal.over_at >= settings.terminal_keep and terminal.view is None:
                    del self._named[name]
            elif (
                settings.terminal_idle_timeout
                and terminal.view is None
                and now - terminal.left_at >= settings.terminal_idle_timeout
            ):
                terminal.hang_up()
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        ended = [
            (terminal.over_at, name)
            for name, terminal in self._named.items()
            if terminal.ended.is_set() and terminal.view is None
        ]
        excess = len(ended) - self.sandbox.settings.max_terminals
        for _, name in sorted(ended)[: max(excess, 0)]:
            del self._named[name]


def _exists(program: str, variables: Mapping[str, str], cwd: Path) -> bool:
    if os.sep in program:
        return shutil.which(str(cwd / program)) is not None
    return shutil.which(program, path=variables.get("PATH", os.defpath)) is not None


def _shell() -> str:
    return shutil.which("bash") or "/bin/sh"
