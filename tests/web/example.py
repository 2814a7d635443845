"""An application that does all that can go wrong, and clients of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kernelagent import logs
from kernelagent.auth.tokens import Authenticator
from kernelagent.errors import SessionNotFound
from kernelagent.web.errors import install_error_handlers
from kernelagent.web.guard import authorize, require
from kernelagent.web.json import json_response
from kernelagent.web.middleware import RequestContext
from tests.waiting import until

LIMIT = 10_000


class Run(BaseModel):
    """A body with one field."""

    code: str


def example_app(authenticator: Authenticator | None = None) -> FastAPI:
    """The application; without an authenticator it is open to all."""
    app = FastAPI(redirect_slashes=False)
    app.state.authenticator = authenticator or Authenticator(sandbox_id="local", open_to_all=True)
    app.state.calls = []
    app.add_middleware(RequestContext, max_body_bytes=LIMIT)
    install_error_handlers(app)

    @app.post("/run")
    async def run(run: Run) -> int:
        app.state.calls.append("run")
        return len(run.code)

    async def raw(request: Request) -> Response:
        app.state.calls.append("raw")
        body = await request.body()
        return json_response({"size": len(body), "id": request.state.request_id})

    async def grouped(request: Request) -> Response:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(request.body())
        return json_response(len(task.result()))

    async def cached(_request: Request) -> Response:
        return Response("x", headers={"Cache-Control": "max-age=60"})

    async def context(_request: Request) -> Response:
        return Response(logs.request_id.get())

    async def bug(_request: Request) -> Response:
        raise RuntimeError("secret")

    async def half(_request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("secret")

        return StreamingResponse(chunks())

    app.add_route("/raw", raw, ["POST"])
    app.add_route("/grouped", grouped, ["POST"])
    app.add_route("/cached", cached)
    app.add_route("/context", context)
    app.add_route("/bug", bug)
    app.add_route("/half", half)

    @app.websocket("/terminal")
    async def terminal(
        websocket: WebSocket, subject: Annotated[Any, Depends(require("terminal"))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(subject.subject)
        await websocket.close()

    @app.websocket("/number")
    async def number(websocket: WebSocket, size: int) -> None: ...

    async def raw_socket(websocket: WebSocket) -> None:
        authorize(websocket, "terminal")
        await websocket.accept()
        raise SessionNotFound("no such session")

    async def refusing(websocket: WebSocket) -> None:
        await websocket.close()

    async def broken(websocket: WebSocket) -> None:
        raise RuntimeError("secret")

    async def broken_late(websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("secret")

    async def leaves(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    for socket_endpoint in (raw_socket, refusing, broken, broken_late, leaves):
        app.router.add_websocket_route(f"/{socket_endpoint.__name__}", socket_endpoint)
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client that needs no server."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent")


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """`app` on a real server; yields host and port."""
    config = uvicorn.Config(
        app, lifespan="off", ws="websockets-sansio", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def http_client(address: str) -> httpx.AsyncClient:
    """A client of a real server."""
    return httpx.AsyncClient(base_url=f"http://{address}", trust_env=False)


async def chunks(total: int) -> AsyncIterator[bytes]:
    """A body of about `total` bytes whose size is not announced."""
    for _ in range(total // 1000):
        yield b"x" * 1000
