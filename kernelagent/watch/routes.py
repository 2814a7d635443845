"""Routes that watch files: /files/watch, as a WebSocket and over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query, Request, WebSocket
from starlette.responses import Response

from kernelagent.auth.tokens import FILES
from kernelagent.files.fs import names
from kernelagent.text import utc_timestamp
from kernelagent.watch.models import WatchInfo, WatchList
from kernelagent.watch.service import WatchService
from kernelagent.watch.socket import WatchSocket
from kernelagent.watch.streams import StreamedWatch
from kernelagent.web.json import json_response
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of
from kernelagent.web.streaming import EVENT_STREAM, NDJSON, wanted_stream

router = feature_router("files", FILES)

_STREAM = {"schema": {"type": "string"}}


@router.get(
    "/files/watch",
    response_model=WatchList,
    responses={200: {"content": {EVENT_STREAM: _STREAM, NDJSON: _STREAM}}},
)
async def watch(
    request: Request,
    path: Annotated[
        str | None,
        Query(description="What to watch, for a stream; default: the workspace"),
    ] = None,
    last_event_id: Annotated[
        str | None, Header(description="Sent by browsers that connect again")
    ] = None,
) -> Response:
    """Stream the changes beneath a path if `Accept` asks for a stream; else list the watches."""
    service = service_of(request, WatchService)
    media_type = wanted_stream(request.headers.get("accept", ""))
    if media_type is not None:
        if path is not None and not path.isascii():
            # What is no UTF-8 has been replaced by now.
            path = names.from_query(request.scope["query_string"], "path")
        is_again = last_event_id is not None
        return StreamedWatch(service, path, media_type, is_again=is_again)
    watches = [WatchInfo(id=w.id, path=names.shown(w.path), since=w.since) for w in service.watches]
    answer = WatchList(
        watches=watches,
        count=len(watches),
        limit=service.settings.max_watches,
        timestamp=utc_timestamp(),
    )
    return json_response(answer.model_dump())


@router.websocket("/files/watch")
async def watch_socket(websocket: WebSocket) -> None:
    """Sends the changes beneath the path that the first message names."""
    service = service_of(websocket, WatchService)
    await WatchSocket(websocket, service).serve()
