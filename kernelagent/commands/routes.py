"""Routes that run commands: /commands/run, its streams and its WebSocket."""

from __future__ import annotations

import asyncio

from fastapi import Request, WebSocket
from starlette.responses import Response

from kernelagent.auth.tokens import COMMANDS
from kernelagent.commands.models import RunRequest, RunResponse
from kernelagent.commands.service import CommandService
from kernelagent.commands.socket import CommandSocket
from kernelagent.commands.streams import FRAMES, StreamedCommand
from kernelagent.web.json import json_response
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of
from kernelagent.web.streaming import (
    CLIENT_CLOSED_REQUEST,
    EVENT_STREAM,
    NDJSON,
    until_disconnect,
    wanted_stream,
)

router = feature_router("commands", COMMANDS)

_STREAM = {"schema": {"type": "string"}}


@router.post(
    "/commands/run",
    response_model=RunResponse,
    responses={200: {"content": {NDJSON: _STREAM, EVENT_STREAM: _STREAM, FRAMES: _STREAM}}},
)
async def run_command(request: Request, wanted: RunRequest) -> Response:
    """Run a command and answer when it has ended, or stream its output if `Accept` asks."""
    service = service_of(request, CommandService)
    accept = request.headers.get("accept", "")
    media_type = FRAMES if FRAMES in accept.lower() else wanted_stream(accept)
    if media_type is not None:
        keepalive = service.sandbox.settings.keepalive
        return StreamedCommand(service, wanted, media_type, keepalive)
    answer = await service.run(wanted, lambda: until_disconnect(request.receive))
    if answer is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return await asyncio.to_thread(json_response, answer)


@router.websocket("/commands/stream")
async def stream_command(websocket: WebSocket) -> None:
    """Runs commands, one after the other, and streams their output."""
    service = service_of(websocket, CommandService)
    await CommandSocket(websocket, service).serve()
