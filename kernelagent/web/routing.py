"""The router of a feature: who may call its routes, and which errors they document."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kernelagent.web.guard import authorize, require


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
# By reference: FastAPI builds everything that reads and writes a model anew wherever one is named,
# which for these was half of the time in which the service starts.
_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}


def error_responses(descriptions: Mapping[int | str, str]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of errors by status."""
    return {
        status: {"content": _CONTENT, "description": description}
        for status, description in descriptions.items()
    }


_ERRORS = error_responses(_DESCRIPTIONS)


def feature_router(tag: str, *scopes: str, direct: bool = False) -> APIRouter:
    """A router whose routes, WebSockets too, are for tokens that open one of `scopes`.

    With `direct` FastAPI does nothing between the check and the endpoint, which takes the request
    alone. What it does for parameters and models costs about as much as everything else that the
    service does for a small run. Such routes document their errors themselves.
    """
    return APIRouter(
        tags=[tag],
        dependencies=[Depends(require(*scopes))],
        responses=None if direct else _ERRORS,
        route_class=_direct_route(scopes) if direct else _checked_route(scopes),
    )


def _checked_route(scopes: tuple[str, ...]) -> type[APIRoute]:
    """Routes that ask who sends a request before they read its body; FastAPI asks afterwards."""

    class CheckedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                authorize(request, *scopes)
                return await handle(request)

            return checked

    return CheckedRoute


def _direct_route(scopes: tuple[str, ...]) -> type[APIRoute]:
    class DirectRoute(APIRoute):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] not in (self.methods or ()):
                await super().handle(scope, receive, send)
                return
            request = Request(scope, receive, send)
            authorize(request, *scopes)
            response: Response = await self.endpoint(request)
            await response(scope, receive, send)

    return DirectRoute
