"""A session's hold on a kernel: leased when needed, replaced when lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kernelagent.errors import SessionBusy, SessionClosed
from kernelagent.jupyter.events import Output, read_event
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.languages import Language
from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import Budget, OutputCollector
from kernelagent.jupyter.pool import Pool
from kernelagent.processes.environment import Environment
from kernelagent.workspace.spill import Spill

_MOST_NOTES = 20
_LATE_OUTPUT = Budget(bytes=256 * 1024, items=50)


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
    # For one run: nobody can come back to its state.
    isolated: bool = False
    # The session that it was branched from.
    parent: str = ""


class Lease:
    """The kernel of one session; each one it gets has the session's environment and directory.

    Between two runs it gathers what threads print and what the next answer should tell.
    """

    def __init__(
        self, facts: SessionFacts, pool: Pool, workspace: Path, environment: Environment
    ) -> None:
        self._facts = facts
        self._pool = pool
        self._workspace = workspace
        self._environment = environment
        self._lock = asyncio.Lock()
        self._closed = False
        self._notes: list[str] = []
        self._late = self._new_collector()
        # A branch begins with a copy of its parent's kernel: until then it gets no other one.
        self._begun = asyncio.Event()
        if not facts.parent:
            self._begun.set()
        self.kernel: Kernel | None = None
        self.generation = 0

    async def ready(self) -> Kernel:
        """The kernel, alive; another one is leased if it was lost.

        Raises what a lease can raise, DirectoryNotFound and SessionClosed.
        """
        if self.kernel is not None and self.kernel.alive:
            return self.kernel
        await self._begun.wait()
        async with self._lock:
            if self._closed:
                raise SessionClosed(f"session {self._facts.id} was closed")
            if self.kernel is not None:
                if self.kernel.alive:
                    return self.kernel
                self.note(
                    f"{self.kernel.death().describe()} since the last run: this one had a fresh "
                    "state"
                )
                await self._release()
            kernel = await self._configured()
            self._hold(kernel)
            return kernel

    def is_current(self, kernel: Kernel) -> bool:
        """Whether a kernel has the sandbox's variables as they are now."""
        return (
            kernel.sandbox_env is self._environment.variables
            or not self._facts.language.has_side_channel
        )

    async def current(self) -> Kernel:
        """As `ready`, with the sandbox's variables as they are now; nothing may run on it."""
        kernel = await self.ready()
        if not self.is_current(kernel):
            async with self._lock:
                await self._update(kernel)
        return kernel

    async def replace(self, kernel: Kernel) -> None:
        """Have `kernel` from now on; the one it had is ended. Raises SessionClosed."""
        async with self._lock:
            if self._closed:
                raise SessionClosed(f"session {self._facts.id} was closed")
            old = self.kernel
            self._hold(kernel)
            self._begun.set()
            if old is not None:
                old.on_late = None
                # Its state is given up: nothing is to be heard of it any more.
                await self._pool.release(old, polite=False)

    async def drop(self, kernel: Kernel) -> None:
        """End `kernel`, unless a run that came meanwhile has another one already."""
        async with self._lock:
            if self.kernel is kernel:
                await self._release()

    async def close(self) -> None:
        """End the kernel for good."""
        self._closed = True
        self._begun.set()
        async with self._lock:
            await self._release()

    def take_late(self) -> list[Output]:
        """What was printed after the end of the runs it belongs to, once."""
        outputs = self._late.outputs
        if outputs:
            self._late = self._new_collector()
        return outputs

    def note(self, text: str) -> None:
        """Have the next answer tell this; what nobody asks for is forgotten at some point."""
        self._notes = [*self._notes, text][-_MOST_NOTES:]

    def take_notes(self) -> list[str]:
        """What the next answer should tell, once."""
        notes, self._notes = self._notes, []
        return notes

    async def _configured(self) -> Kernel:
        facts = self._facts
        if not facts.language.has_side_channel:
            env = {**self._environment.variables, **facts.env}
            if env or facts.cwd is not None:
                return await self._pool.start(env, facts.cwd)
            return await self._pool.lease()
        kernel = await self._pool.lease()
        try:
            await self._update(kernel, facts.env, facts.cwd)
        except BaseException:
            await self._pool.release(kernel, polite=False)
            raise
        return kernel

    async def _update(
        self, kernel: Kernel, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Give the kernel the sandbox's variables of now, and `env` and `cwd`."""
        variables = self._environment.variables
        changed, unset = self._environment.changes(kernel.sandbox_env, self._facts.env)
        try:
            await kernel.configure({**changed, **(env or {})}, cwd, unset)
        except TimeoutError:
            raise SessionBusy("the kernel did not take its environment in time") from None
        kernel.sandbox_env = variables

    def _hold(self, kernel: Kernel) -> None:
        self.kernel = kernel
        kernel.on_late = self._on_late
        self.generation += 1

    async def _release(self) -> None:
        kernel, self.kernel = self.kernel, None
        if kernel is not None:
            kernel.on_late = None
            await self._pool.release(kernel)

    def _new_collector(self) -> OutputCollector:
        return OutputCollector(_LATE_OUTPUT, Spill(self._workspace, "late", 0), lambda _: None)

    def _on_late(self, message: Message) -> None:
        event = read_event(message)
        if event is not None:
            self._late.take(event)
