"""How a route comes to the service behind it."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import HTTPConnection

T = TypeVar("T")


def service_of(connection: HTTPConnection, kind: type[T]) -> T:
    """The agent's service of that class, while the agent is open."""
    service: T = connection.app.state.agent.services[kind]
    return service
