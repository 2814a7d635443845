"""All services of one sandbox, opened and closed as one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Protocol

from kernelagent.commands.service import CommandService
from kernelagent.database import Database
from kernelagent.env.service import EnvironmentService
from kernelagent.execution.cache.service import CachedRuns
from kernelagent.execution.repeats import Repeats
from kernelagent.execution.service import ExecutionService
from kernelagent.files.service import FileService
from kernelagent.jobs.archive import JobArchive
from kernelagent.jobs.service import JobService
from kernelagent.jupyter.languages import Languages
from kernelagent.leftovers import end_leftovers, remember_places
from kernelagent.observability.clock import Clock
from kernelagent.observability.service import ObservabilityService
from kernelagent.observability.tracing import Tracing
from kernelagent.sandbox import Sandbox
from kernelagent.sessions.engine import Engine
from kernelagent.terminals.service import TerminalService
from kernelagent.watch.service import WatchService
from kernelagent.webhooks.outbox import Outbox


class _Service(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Agent:
    """What answers requests; see `open_agent`."""

    sandbox: Sandbox
    env: EnvironmentService
    engine: Engine
    execution: ExecutionService
    cached_runs: CachedRuns
    repeats: Repeats
    jobs: JobService
    commands: CommandService
    terminals: TerminalService
    files: FileService
    watches: WatchService
    observability: ObservabilityService
    clock: Clock

    def __post_init__(self) -> None:
        found = (getattr(self, field.name) for field in fields(self))
        # By class: routes ask for theirs by it.
        object.__setattr__(self, "services", {type(service): service for service in found})


@contextlib.asynccontextmanager
async def open_agent(sandbox: Sandbox, languages: Languages) -> AsyncIterator[Agent]:
    """The services in a sandbox that is not open yet; nothing is left of them, nor of it."""
    settings = sandbox.settings
    async with contextlib.AsyncExitStack() as stack:
        repeats = await stack.enter_async_context(Repeats(settings))
        engine = Engine(sandbox, languages)
        execution = ExecutionService(engine)
        cached_runs = await stack.enter_async_context(CachedRuns(execution))
        database = Database(settings.state_dir)
        env = EnvironmentService(sandbox.environment, database)
        outbox = Outbox(database, settings)
        jobs = JobService(engine, JobArchive(database, outbox, settings))
        commands = CommandService(sandbox)
        terminals = TerminalService(sandbox)
        observability = ObservabilityService(engine, jobs, commands, cached_runs)

        async def opened(*services: _Service) -> None:
            for service in services:
                # First: what has opened half way is closed too.
                stack.push_async_callback(service.close)
                await service.open()

        await opened(Tracing(sandbox.observers), database)
        await end_leftovers(database, sandbox.server_id)
        await opened(sandbox, env, engine)
        await remember_places(database, engine.places)
        await opened(outbox, jobs, terminals, observability)
        files = FileService.of(sandbox, closed=[engine.runtime_dir])
        stack.push_async_callback(files.close)
        stack.push_async_callback(commands.close)
        watches = WatchService(settings, files)
        stack.push_async_callback(watches.close)
        yield Agent(
            sandbox=sandbox,
            env=env,
            engine=engine,
            execution=execution,
            cached_runs=cached_runs,
            repeats=repeats,
            jobs=jobs,
            commands=commands,
            terminals=terminals,
            files=files,
            watches=watches,
            observability=observability,
            clock=Clock(),
        )
