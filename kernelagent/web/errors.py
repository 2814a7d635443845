"""The one place where errors become answers."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from kernelagent.errors import (
    AccessDenied,
    ApiError,
    AuthenticationRequired,
    BodyTooLarge,
    InternalError,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    MissingParameter,
    RouteNotFound,
)
from kernelagent.text import utc_timestamp
from kernelagent.web.json import json_response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger("kernelagent")

# The ASGI extension by which a server lets us answer a WebSocket's handshake with a response.
DENIAL = "websocket.http.response"

_SOURCES = {"body", "query", "path", "header", "cookie"}
_NO_OBJECT = {"model_attributes_type", "model_type", "dict_type", "dataclass_type"}


def error_body(error: ApiError, *, request_id: str, path: str) -> dict[str, Any]:
    """The body of an agent error. Each client reads other fields; together they read these."""
    details = error.details
    body: dict[str, Any] = {
        "error": error.message,
        "message": error.message,
        "code": error.code,
        "details": details,
        "path": details.get("path", path),
        "request_id": request_id,
        "timestamp": utc_timestamp(),
    }
    for name in ("exit_code", "missing_dependencies"):
        if name in details:
            body[name] = details[name]
    return body


def error_response(
    error: ApiError,
    scope: Scope,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to the request of `scope` that failed with `error`."""
    request_id = _request_id(scope)
    status = error.status if status is None else status
    extra = {**(headers or {}), "X-Request-ID": request_id}
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    body = error_body(error, request_id=request_id, path=scope.get("path", ""))
    return json_response(body, status, extra)


def failure_response(failure: Exception, scope: Scope) -> Response:
    """The answer after an exception that nothing translated; logged unless it is an ApiError."""
    # A task group wraps what fails in it.
    while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if not isinstance(failure, ApiError):
        log_failure(failure, scope)
        failure = InternalError("internal error; the log has it under this request id")
    return error_response(failure, scope)


def log_failure(failure: Exception, scope: Scope) -> None:
    """Write the trace of a fault of ours."""
    extra = {"request_id": _request_id(scope), "path": scope.get("path", "")}
    logger.error("unhandled exception", exc_info=failure, extra=extra)


def invalid_body(error: ValidationError) -> ApiError:
    """Return what pydantic says of a body or a message as an error of ours."""
    return validation_error([{**item, "loc": ("body", *item["loc"])} for item in error.errors()])


def validation_error(errors: Sequence[Any]) -> ApiError:
    """The errors of pydantic or FastAPI as one of ours: the first in a sentence, all in details.

    What was sent is not repeated: it may be code or a secret.
    """
    details = {"errors": [_describe(error) for error in errors[:20]]}
    first = errors[0]
    kind = first["type"]
    source, names = _split(first["loc"])
    field = _field(names)
    at_top = all(isinstance(name, int) for name in names)
    if kind == "json_invalid" and at_top:
        reason = str(first.get("ctx", {}).get("error", "syntax error"))[:200]
        place = f" at character {names[0]}" if names else ""
        return InvalidJson(f"the body is not valid JSON: {reason}{place}", details=details)
    if kind in _NO_OBJECT and not names and source in ("body", ""):
        return InvalidJson("the body must be a JSON object", details=details)
    if kind == "missing":
        if not names:
            return MissingParameter("a JSON body is required", details=details)
        where = "" if source in ("body", "") else f"{source} parameter "
        return MissingParameter(f"{where}{field} is required", details=details)
    message = _sentence(first)
    return InvalidRequest(f"{field}: {message}" if field else message, details=details)


def _describe(error: Any) -> dict[str, str]:
    source, names = _split(error["loc"])
    return {
        "field": _field(names),
        "in": source or "body",
        "type": error["type"],
        "message": _sentence(error),
    }


def _split(loc: Sequence[str | int]) -> tuple[str, list[str | int]]:
    if loc and loc[0] in _SOURCES:
        return str(loc[0]), list(loc[1:])
    return "", list(loc)


def _field(names: Sequence[str | int]) -> str:
    parts = (f"[{name}]" if isinstance(name, int) else f".{name[:100]}" for name in names)
    return "".join(parts).removeprefix(".")


def _sentence(error: Any) -> str:
    if error["type"] == "union_tag_invalid":  # pydantic's sentence quotes the input here
        return f"must be one of {error.get('ctx', {}).get('expected_tags', 'the known kinds')}"
    message = str(error["msg"]).removeprefix("Value error, ")[:500]
    return message[:1].lower() + message[1:]


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of `app`, its own and the framework's, an answer of our shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(WebSocketRequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_failure)

    async def no_route(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise _route_not_found(scope)

    # Starlette's own answer to an unknown WebSocket is a bare 403.
    app.router.default = no_route


async def _on_api_error(connection: Request | WebSocket, error: Exception) -> Any:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for it
    return await _answer(connection, error)


async def _on_http_exception(connection: Request | WebSocket, error: Exception) -> Any:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if isinstance(error.__cause__, ApiError):  # FastAPI wraps what fails while it reads the body
        return await _answer(connection, error.__cause__)
    translated = _translate(error, connection.scope)
    status = error.status_code if 400 <= error.status_code < 500 else translated.status
    return await _answer(connection, translated, status=status, headers=error.headers)


async def _on_validation_error(connection: Request | WebSocket, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError | WebSocketRequestValidationError)  # noqa: S101
    return await _answer(connection, validation_error(error.errors()))


async def _on_failure(request: Request, error: Exception) -> Any:
    return failure_response(error, request.scope)


async def _answer(
    connection: Request | WebSocket,
    error: ApiError,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response | None:
    if isinstance(connection, WebSocket):
        state = connection.application_state
        deniable = DENIAL in connection.scope.get("extensions", {})
        if state not in (WebSocketState.CONNECTING, WebSocketState.CONNECTED):
            return None
        if state is WebSocketState.CONNECTED or not deniable:
            await connection.close(1011 if error.status >= 500 else 1008, error.code)
            return None
    return error_response(error, connection.scope, status=status, headers=headers)


def _translate(error: HTTPException, scope: Scope) -> ApiError:
    status = error.status_code
    if status == 400 and isinstance(error.__cause__, ValueError | RecursionError):
        return InvalidJson("the body cannot be read as JSON in UTF-8")
    if status == 404:
        return _route_not_found(scope)
    if status == 405:
        return MethodNotAllowed(f"this route has no method {scope.get('method', '')}")
    if status >= 500:
        return InternalError("internal error")
    kinds: dict[int, type[ApiError]] = {
        401: AuthenticationRequired,
        403: AccessDenied,
        413: BodyTooLarge,
    }
    return kinds.get(status, InvalidRequest)(str(error.detail))


def _route_not_found(scope: Scope) -> RouteNotFound:
    method = scope.get("method", "WEBSOCKET")
    path = scope["path"][:200]
    # JavaScript clients take a message with "not found" in it for a missing file, and with the
    # word "sandbox" too for an expired sandbox; a path may hold both.
    if "not found" in path.lower():
        return RouteNotFound(f"no such route for {method}")
    return RouteNotFound(f"no such route: {method} {path}")


def _request_id(scope: Scope) -> str:
    state: dict[str, Any] = scope.setdefault("state", {})
    request_id: str = state.setdefault("request_id", uuid.uuid4().hex)
    return request_id
