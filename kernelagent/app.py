"""The ASGI application: services opened in its lifespan, routers mounted, errors translated."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from kernelagent import __version__
from kernelagent.auth.tokens import Authenticator
from kernelagent.commands.routes import router as commands_router
from kernelagent.commands.service import CommandService
from kernelagent.database import Database
from kernelagent.env.routes import router as env_router
from kernelagent.env.service import EnvironmentService
from kernelagent.execution.cache.routes import router as cache_router
from kernelagent.execution.cache.service import CachedRuns
from kernelagent.execution.repeats import Repeats
from kernelagent.execution.routes import router as execution_router
from kernelagent.execution.routes import shortcuts
from kernelagent.execution.service import ExecutionService
from kernelagent.files.routes import body_limits
from kernelagent.files.routes import router as files_router
from kernelagent.files.service import FileService
from kernelagent.jobs.archive import JobArchive
from kernelagent.jobs.routes import code_router, command_router
from kernelagent.jobs.routes import router as jobs_router
from kernelagent.jobs.service import JobService
from kernelagent.jupyter.languages import Languages
from kernelagent.observability.metrics_routes import router as metrics_router
from kernelagent.observability.processes_routes import router as processes_router
from kernelagent.observability.routes import Clock
from kernelagent.observability.routes import router as observability_router
from kernelagent.observability.service import ObservabilityService
from kernelagent.observability.tracing import Tracing
from kernelagent.sessions.engine import Engine
from kernelagent.sessions.routes import router as sessions_router
from kernelagent.settings import Settings, load_settings
from kernelagent.terminals.routes import router as terminal_router
from kernelagent.terminals.service import TerminalService
from kernelagent.watch.routes import router as watch_router
from kernelagent.watch.service import WatchService
from kernelagent.web.errors import install_error_handlers
from kernelagent.web.middleware import RequestContext
from kernelagent.webhooks.outbox import Outbox


def create_app(settings: Settings | None = None, *, languages: Languages | None = None) -> FastAPI:
    """The application; `languages` replaces the installed ones. Raises ConfigurationError."""
    settings = settings or load_settings()
    settings.check()
    engine = Engine(settings, languages)
    execution = ExecutionService(engine)
    cached_runs = CachedRuns(execution)
    repeats = Repeats(settings)
    database = Database(settings.state_dir)
    outbox = Outbox(database, settings)
    commands = CommandService(engine)
    terminals = TerminalService(engine)
    env = EnvironmentService(engine.environment, database)
    files = FileService.from_settings(settings)
    watches = WatchService(settings, files.roots)
    jobs = JobService(engine, JobArchive(database, outbox, settings))
    observability = ObservabilityService(engine, jobs, commands, cached_runs)
    tracing = Tracing(engine.observers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with repeats, cached_runs, contextlib.AsyncExitStack() as stack:
            for service in (
                tracing,
                database,
                env,
                engine,
                outbox,
                jobs,
                terminals,
                observability,
            ):
                # First: what has opened half way is closed too.
                stack.push_async_callback(service.close)
                await service.open()
            for users in (files, watches):
                users.belong_to(engine.confinement.owner)
            stack.push_async_callback(files.close)
            if engine.runtime_dir is not None:
                files.roots.close_off(engine.runtime_dir)
            stack.push_async_callback(commands.close)
            stack.push_async_callback(watches.close)
            yield

    app = FastAPI(
        title="kernelagent",
        version=__version__,
        summary="Rich code execution on warm Jupyter kernels",
        lifespan=lifespan,
        # Clients do not follow redirects in a useful way.
        redirect_slashes=False,
        # Its records of failures quote what was sent, which is code, and its spans quote queries;
        # it would also begin by itself when anything in this process sets a provider.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.settings = settings
    app.state.authenticator = Authenticator.from_settings(settings)
    app.state.engine = engine
    app.state.execution = execution
    app.state.cached_runs = cached_runs
    app.state.repeats = repeats
    app.state.commands = commands
    app.state.terminals = terminals
    app.state.env = env
    app.state.files = files
    app.state.jobs = jobs
    app.state.watches = watches
    app.state.clock = Clock()
    app.state.observability = observability
    # Looked through in this order at every request: the most used first.
    for router in (
        execution_router,
        sessions_router,
        code_router,
        command_router,
        jobs_router,
        cache_router,
        commands_router,
        terminal_router,
        env_router,
        watch_router,
        files_router,
        processes_router,
        metrics_router,
        observability_router,
    ):
        app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(
        RequestContext,
        max_body_bytes=settings.max_body_bytes,
        body_limits=body_limits(settings),
        shortcuts=shortcuts(),
        observers=engine.observers,
    )
    return app
