"""Who answers here, and at which routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts

from kernelagent import __version__
from kernelagent.text import utc_timestamp

AGENT = "kernelagent"


def identity(request: Request) -> dict[str, Any]:
    """The names by which published clients know an agent."""
    sandbox_id = request.app.state.settings.sandbox_id
    return {
        "agent": AGENT,
        "version": __version__,
        "agent_version": __version__,
        "vm_id": sandbox_id,
        "timestamp": utc_timestamp(),
    }


def root_facts(request: Request) -> dict[str, Any]:
    """The fields of the service's root object."""
    return {
        **identity(request),
        "status": "running",
        "message": "kernelagent runs code in warm Jupyter kernels; see /docs",
        "endpoints": endpoints(request.app),
    }


def endpoints(app: FastAPI) -> dict[str, str]:
    """Name of each route: method and path."""
    found: dict[str, str] = {}
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute):
            found[route.name] = f"{'|'.join(sorted(route.methods or ()))} {context.path}"
        elif isinstance(route, APIWebSocketRoute):
            found[route.name] = f"WEBSOCKET {context.path}"
    return found
