"""Routes that run code: /execute, /execute/rich, /execute/ipython and their WebSockets."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from fastapi import Request, WebSocket
from starlette.responses import Response

from kernelagent.auth.tokens import EXECUTE
from kernelagent.errors import InvalidRequest
from kernelagent.execution.cache.service import CachedRuns
from kernelagent.execution.models import ExecuteRequest, ExecuteResponse, RichResponse
from kernelagent.execution.repeats import HEADER as IDEMPOTENCY_KEY
from kernelagent.execution.repeats import REPLAYED as IDEMPOTENCY_REPLAYED
from kernelagent.execution.repeats import RepeatedRuns, Repeats
from kernelagent.execution.runs import Runs
from kernelagent.execution.service import ExecutionService, parse_request
from kernelagent.execution.socket import RunSocket
from kernelagent.execution.streams import StreamedRun
from kernelagent.web.guard import principal_of
from kernelagent.web.routing import error_responses, feature_router
from kernelagent.web.services import service_of
from kernelagent.web.streaming import (
    CLIENT_CLOSED_REQUEST,
    EVENT_STREAM,
    NDJSON,
    until_disconnect,
    wanted_stream,
)

router = feature_router("execution", EXECUTE, direct=True)


def _documentation(response: type[ExecuteResponse]) -> dict[str, Any]:
    """OpenAPI of a route whose body is read and written by hand, for speed."""
    stream = {"schema": {"type": "string"}}
    return {
        "openapi_extra": {
            "parameters": [
                {
                    "name": IDEMPOTENCY_KEY,
                    "in": "header",
                    "required": False,
                    "description": "A repeat with the same key and body joins the run or gets its "
                    f"answer, with the header {IDEMPOTENCY_REPLAYED}: true",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": ExecuteRequest.model_json_schema()},
                },
            },
        },
        "response_model": None,
        "responses": {
            200: {
                "model": response,
                "content": {NDJSON: stream, EVENT_STREAM: stream},
                "description": "What the run came to, or its messages as a stream if Accept asks",
            },
            **error_responses(
                {
                    400: "The request cannot be run",
                    401: "No token, or not a good one",
                    403: "A token for something else",
                    404: "No such session or input file",
                    409: "Not run: the queue, or a used key",
                    413: "The body is too large",
                }
            ),
        },
    }


async def _execute(request: Request, *, rich: bool, language: str | None = None) -> Response:
    wanted = parse_request(await request.body(), language=language)
    media_type = wanted_stream(request.headers.get("accept", ""))
    key = request.headers.get(IDEMPOTENCY_KEY)
    if media_type is not None:
        if key is not None:
            raise _no_repeated_stream()
        service = service_of(request, ExecutionService)
        return StreamedRun(service, wanted, media_type, service.engine.settings.keepalive)

    def leaving() -> Coroutine[None, None, None]:
        return until_disconnect(request.receive)

    runs: Runs = service_of(request, ExecutionService)
    if wanted.asks_cache:
        runs = service_of(request, CachedRuns)
    if key is not None:
        runs = await _under_key(request, runs)
    answer = await runs.answer(wanted, leaving, rich=rich)
    if answer is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    headers = {IDEMPOTENCY_REPLAYED: "true"} if answer.repeated else None
    return Response(answer.body, 200, headers, "application/json")


async def _under_key(request: Request, runs: Runs) -> Runs:
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if len(keys) > 1:
        raise InvalidRequest(f"a request has one {IDEMPOTENCY_KEY}")
    owner = (principal_of(request).subject, request.scope["path"])
    body = await request.body()
    return RepeatedRuns(service_of(request, Repeats), runs, keys[0], owner, body)


def _no_repeated_stream() -> InvalidRequest:
    return InvalidRequest(
        f"streams cannot be repeated: drop {IDEMPOTENCY_KEY}, or ask for one answer"
    )


@router.post("/execute", **_documentation(ExecuteResponse))
async def execute(request: Request) -> Response:
    """Run code; the last picture, table and so on have fields of their own."""
    return await _execute(request, rich=False)


@router.post("/execute/rich", **_documentation(RichResponse))
async def execute_rich(request: Request) -> Response:
    """Run code; all outputs in order, in nbformat shape too."""
    return await _execute(request, rich=True)


@router.post("/execute/ipython", **_documentation(ExecuteResponse))
async def execute_ipython(request: Request) -> Response:
    """As /execute, always Python."""
    return await _execute(request, rich=False, language="python")


async def _serve_socket(websocket: WebSocket, *, language: str | None, rich: bool) -> None:
    if IDEMPOTENCY_KEY in websocket.headers:
        raise _no_repeated_stream()
    service = service_of(websocket, ExecutionService)
    await RunSocket(websocket, service, language=language, rich=rich).serve()


@router.websocket("/execute/stream")
async def execute_stream(websocket: WebSocket) -> None:
    """Streams text; the result carries the last picture and so on if they are small."""
    await _serve_socket(websocket, language=None, rich=False)


@router.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    """Streams text and everything shown."""
    await _serve_socket(websocket, language=None, rich=True)


@router.websocket("/stream/ipython")
async def stream_ipython(websocket: WebSocket) -> None:
    """As /stream, always Python."""
    await _serve_socket(websocket, language="python", rich=True)
