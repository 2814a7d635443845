"""What the routes of all features share: who may call them, and which errors they document."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from kernelagent.web.guard import authorize


class ErrorResponse(BaseModel):
    """Every error of the service."""

    model_config = ConfigDict(extra="allow")

    error: str
    message: str
    code: str
    details: dict[str, Any]
    request_id: str
    timestamp: str


_DESCRIPTIONS: dict[int | str, str] = {
    400: "The request cannot be used",
    401: "No token, or not a good one",
    403: "A token for something else",
    404: "No such thing",
    409: "Not in the state that this or the service is in",
    # Keeps FastAPI from documenting its own 422, which is never sent.
    "default": "Any other error",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in _DESCRIPTIONS.items()
}


def authorized_route(*scopes: str) -> type[APIRoute]:
    """A class of routes for tokens that open one of `scopes`; declare them with `require` too.

    FastAPI reads and parses a body before it asks the dependencies who sends it.
    """

    class AuthorizedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def authorized(request: Request) -> Response:
                authorize(request, *scopes)
                return await handle(request)

            return authorized

    return AuthorizedRoute
