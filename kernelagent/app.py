"""The ASGI application: services opened in its lifespan, routers mounted, errors translated."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from kernelagent import __version__
from kernelagent.agent import open_agent
from kernelagent.auth.tokens import Authenticator
from kernelagent.commands.routes import router as commands_router
from kernelagent.env.routes import router as env_router
from kernelagent.execution.cache.routes import router as cache_router
from kernelagent.execution.routes import router as execution_router
from kernelagent.files.routes import body_limits
from kernelagent.files.routes import router as files_router
from kernelagent.jobs.routes import code_router, command_router
from kernelagent.jobs.routes import router as jobs_router
from kernelagent.jupyter.languages import Languages
from kernelagent.observability.metrics_routes import router as metrics_router
from kernelagent.observability.processes_routes import router as processes_router
from kernelagent.observability.routes import router as observability_router
from kernelagent.sandbox import Sandbox
from kernelagent.sessions.routes import router as sessions_router
from kernelagent.settings import Settings, load_settings
from kernelagent.terminals.routes import router as terminal_router
from kernelagent.watch.routes import router as watch_router
from kernelagent.web.errors import install_error_handlers
from kernelagent.web.middleware import RequestContext


def create_app(settings: Settings | None = None, *, languages: Languages | None = None) -> FastAPI:
    """The application; `languages` replaces the installed ones. Raises ConfigurationError."""
    settings = settings or load_settings()
    settings.check()
    languages = languages or Languages.load()
    sandbox = Sandbox(settings, languages.needs)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_agent(sandbox, languages) as agent:
            app.state.agent = agent
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
        observers=sandbox.observers,
    )
    return app
