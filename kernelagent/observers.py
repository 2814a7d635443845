"""What services tell to whoever listens: they know no listener, and no listener can hurt them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelagent import logs

if TYPE_CHECKING:
    from starlette.types import Scope

log = logging.getLogger(__name__)

# What a tracer takes for the parent of all that begins from here; nobody else looks into it.
span: ContextVar[Any] = ContextVar("span", default=None)


@dataclass(slots=True)
class RequestBegan:
    """An HTTP request, or a WebSocket's; told in the context in which it is answered."""

    scope: Scope


@dataclass(slots=True)
class RequestEnded:
    """The same is over; `route` is a template, never the path itself. Seconds."""

    scope: Scope
    method: str
    route: str
    status: int
    seconds: float


@dataclass(slots=True)
class RunEnded:
    """A run has a result; told in the context in which it was submitted.

    `begun` is whether a kernel had it. Seconds.
    """

    execution_id: str
    session_id: str
    language: str
    outcome: str
    exit_code: int
    begun: bool
    queued_seconds: float
    seconds: float


@dataclass(slots=True)
class RunRefused:
    """Code was not run; `code` is that of the error."""

    language: str
    code: str


@dataclass(slots=True)
class KernelStarted:
    """A kernel answers, or could not be started: then there is the `code` of an error.

    `how`: forked, spawned or copied.
    """

    language: str
    how: str
    seconds: float
    code: str = ""


@dataclass(slots=True)
class CommandEnded:
    """A command whose end was waited for; told in the context in which it was asked for."""

    command_id: str
    outcome: str
    exit_code: int
    seconds: float


@dataclass(slots=True)
class JobEnded:
    """A job is over; `kind` and `status` are its own words."""

    job_id: str
    kind: str
    status: str
    seconds: float


Event = (
    RequestBegan | RequestEnded | RunEnded | RunRefused | KernelStarted | CommandEnded | JobEnded
)


class Observers:
    """Passes on what happens. A listener is called on the loop: it must take microseconds."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []

    def add(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` hear everything from now on."""
        self._listeners.append(listener)

    def remove(self, listener: Callable[[Event], None]) -> None:
        """Have it hear nothing more."""
        self._listeners.remove(listener)

    def tell(self, event: Event) -> None:
        """Something has happened."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed at %s", type(event).__name__)


def belong_to(context: Context) -> None:
    """Have what this task logs and begins from now on belong to where `context` was taken."""
    for variable in logs.CONTEXT:
        variable.set(context.get(variable))
    span.set(context.get(span))
