"""What every request passes: ids, limits, headers, the access log. Some on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
import uvicorn
import websockets
from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kernelagent import logs, middleware
from kernelagent.auth import Authenticator, authorize, require
from kernelagent.errors import SessionNotFound
from kernelagent.middleware import RequestContext
from kernelagent.responses import install_error_handlers, json_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Message, Receive, Scope, Send

LIMIT = 10_000


class Run(BaseModel):
    code: str


def example_app(authenticator: Authenticator | None = None) -> FastAPI:
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
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def http_client(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{address}", trust_env=False)


def opened(url: str, **options: Any) -> websockets.connect:
    return websockets.connect(url, proxy=None, **options)


async def rejected(url: str, **options: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body with which the server refuses the handshake."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await opened(url, **options)
    response = caught.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return response.status_code, headers, json.loads(response.body or b"{}")


@pytest.mark.parametrize("wished", ["a", "req_1:2.3-4", "x" * 128])
async def test_the_clients_request_id_is_echoed(wished: str) -> None:
    async with client_of(example_app()) as client:
        headers = {"X-Request-ID": wished}
        for path in ("/context", "/nowhere", "/bug"):
            response = await client.get(path, headers=headers)
            assert response.headers.get_list("x-request-id") == [wished]
        assert (await client.get("/context", headers=headers)).text == wished
        assert (await client.post("/raw", headers=headers)).json()["id"] == wished
        assert (await client.get("/nowhere", headers=headers)).json()["request_id"] == wished


@pytest.mark.parametrize("wished", ["", "x" * 129, "a b", "a\tb", "é", "a;b", "<script>"])
async def test_an_unusable_request_id_is_replaced(wished: str) -> None:
    async with client_of(example_app()) as client:
        headers = {b"X-Request-ID": wished.encode()}
        response = await client.get("/context", headers=headers)
    given = response.headers["x-request-id"]
    assert (len(given), response.text) == (32, given)
    int(given, 16)


async def test_each_request_gets_its_own_id() -> None:
    async with client_of(example_app()) as client:
        ids = {(await client.get("/context")).text for _ in range(3)}
    assert len(ids) == 3
    assert logs.request_id.get() is None


async def test_security_headers() -> None:
    async with client_of(example_app()) as client:
        for path in ("/context", "/nowhere", "/bug"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
        response = await client.get("/cached")
        assert response.headers.get_list("cache-control") == ["max-age=60"]


async def test_a_reused_response_does_not_collect_headers() -> None:
    response = Response("x")
    app = RequestContext(response, max_body_bytes=LIMIT)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://agent"
    ) as client:
        for _ in range(2):
            assert len((await client.get("/")).headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("path", ["/run", "/raw"])
async def test_a_body_that_is_announced_too_large_is_not_read(path: str) -> None:
    app = example_app()
    async with client_of(app) as client:
        response = await client.post(path, json={"code": "x" * LIMIT})
    body = response.json()
    assert (response.status_code, body["code"]) == (413, "BODY_TOO_LARGE")
    assert body["details"] == {"limit": LIMIT}
    assert response.headers["connection"] == "close"
    assert body["request_id"] == response.headers["x-request-id"]
    assert app.state.calls == []


async def test_the_413_goes_out_before_the_body_comes_in() -> None:
    events: list[str] = []

    async def receive() -> Message:
        events.append("receive")
        return {"type": "http.request", "body": b"x", "more_body": len(events) < 5}

    async def send(message: Message) -> None:
        events.append(message["type"] + ("+" if message.get("more_body") else ""))

    scope: dict[str, Any] = {
        "type": "http",
        "path": "/raw",
        "method": "POST",
        "headers": [(b"content-length", b"99999999999999999999999999")],
    }
    app = example_app()
    await app(scope, receive, send)
    assert events[:3] == ["http.response.start", "http.response.body+", "receive"]
    assert events[-1] == "http.response.body"
    assert app.state.calls == []


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 1000):
        yield b"x" * 1000


@pytest.mark.parametrize("path", ["/run", "/raw", "/grouped"])
async def test_a_body_that_grows_too_large_is_refused(path: str) -> None:
    app = example_app()
    async with client_of(app) as client:
        response = await client.post(
            path, content=chunks(LIMIT + 1000), headers={"Content-Type": "application/json"}
        )
        body = response.json()
        assert (response.status_code, body["code"]) == (413, "BODY_TOO_LARGE")
        assert response.headers["connection"] == "close"
        assert "run" not in app.state.calls


async def test_a_body_of_just_the_limit_is_taken() -> None:
    async with client_of(example_app()) as client:
        assert (await client.post("/raw", content=chunks(LIMIT))).json()["size"] == LIMIT
        assert (await client.post("/raw", content=b"x" * LIMIT)).json()["size"] == LIMIT


async def test_waiting_for_the_rest_of_a_refused_body_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(middleware, "LINGER", 0.05)

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "path": "/raw",
        "method": "POST",
        "headers": [(b"content-length", b"999999")],
    }
    async with asyncio.timeout(5):
        await example_app()(scope, receive, send)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_real_client_sees_the_413() -> None:
    app = example_app()
    async with serving(app) as address, http_client(address) as client:
        for content in (b"x" * 8_000_000, chunks(2_000_000)):
            response = await client.post("/raw", content=content)
            assert (response.status_code, response.json()["code"]) == (413, "BODY_TOO_LARGE")
        assert (await client.post("/raw", content=b"x")).json()["size"] == 1


async def test_a_fault_is_answered_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(example_app()) as address, http_client(address) as client:
        response = await client.get("/bug", headers={"X-Request-ID": "r-1"})
    assert (response.status_code, response.json()["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in response.text
    failures = [record for record in caplog.records if record.exc_info]
    assert [vars(record)["request_id"] for record in failures] == ["r-1"]


async def test_a_fault_in_mid_answer_breaks_the_answer_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(example_app()) as address, http_client(address) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/half")
    assert [record.name for record in caplog.records if record.exc_info] == ["kernelagent"]


async def test_a_client_that_leaves_while_it_sends_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: dict[str, Any] = {"type": "http", "path": "/raw", "method": "POST", "headers": []}
    with caplog.at_level(logging.INFO, "kernelagent"):
        await example_app()(scope, receive, send)
    (record,) = caplog.records
    assert (record.name, vars(record)["status"]) == ("kernelagent.access", 499)


async def test_the_access_log_has_no_query_no_headers_no_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "kernelagent.access"):
        async with client_of(example_app()) as client:
            await client.post(
                "/raw?token=secret", content=b"secret", headers={"Authorization": "Bearer secret"}
            )
    (record,) = [record for record in caplog.records if record.name == "kernelagent.access"]
    fields = vars(record)
    assert record.getMessage() == "request"
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", "/raw", 200)
    assert 0 < fields["duration_ms"] < 10_000
    assert "secret" not in str(fields)


async def test_the_access_log_knows_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logs.JsonFormatter())
    log = logging.getLogger("kernelagent.access")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        async with client_of(example_app()) as client:
            await client.get("/nowhere", headers={"X-Request-ID": "r-2"})
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    fields = json.loads(capsys.readouterr().err)
    assert (fields["request_id"], fields["status"]) == ("r-2", 404)


async def test_a_silent_access_log_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kernelagent.access"):
        async with client_of(example_app()) as client:
            await client.get("/context")
    assert not caplog.records


async def test_other_scopes_pass_untouched() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope, receive, send])

    given: list[Any] = [{"type": "lifespan"}, object(), object()]
    await RequestContext(app, max_body_bytes=1)(*given)
    assert all(one is other for one, other in zip(seen, given, strict=True))
    assert given[0] == {"type": "lifespan"}


async def test_the_overhead_is_microseconds(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": False}

    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    wrapped = RequestContext(app, max_body_bytes=LIMIT)
    with caplog.at_level(logging.WARNING, "kernelagent.access"):
        best = 1.0
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(100):
                await wrapped(
                    {
                        "type": "http",
                        "method": "POST",
                        "path": "/",
                        "headers": [(b"host", b"x")] * 6,
                    },
                    receive,
                    send,
                )
            best = min(best, (time.perf_counter() - started) / 100)
    assert set(statuses) == {200}
    assert best < 100e-6  # about 10 on an idle machine


SECRET = b"0123456789abcdef0123456789abcdef"


async def test_websocket_handshakes_are_refused_with_a_status_and_a_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    authenticator = Authenticator(sandbox_id="local", secret=SECRET)
    other = Authenticator(sandbox_id="other", secret=SECRET)
    bad = {
        None: (401, "AUTHENTICATION_REQUIRED"),
        "nonsense": (401, "TOKEN_INVALID"),
        other.issue()[0]: (403, "ACCESS_DENIED"),
        authenticator.issue(scopes=["files"])[0]: (403, "ACCESS_DENIED"),
    }
    with caplog.at_level(logging.INFO, "kernelagent.access"):
        async with serving(example_app(authenticator)) as address:
            for path in ("terminal", "raw_socket"):
                for token, expected in bad.items():
                    headers = {"X-Request-ID": "ws-1"}
                    if token is not None:
                        headers["Authorization"] = f"Bearer {token}"
                    status, answer, body = await rejected(
                        f"ws://{address}/{path}", additional_headers=headers
                    )
                    assert (status, body["code"]) == expected
                    assert answer["x-request-id"] == body["request_id"] == "ws-1"
                    assert answer["content-type"] == "application/json"
                    assert ("www-authenticate" in answer) == (status == 401)
    lines = [vars(record) for record in caplog.records if record.name == "kernelagent.access"]
    assert [line["status"] for line in lines] == [status for status, _ in bad.values()] * 2
    assert {line["method"] for line in lines} == {"WEBSOCKET"}


async def test_websockets_are_opened_by_header_or_query() -> None:
    authenticator = Authenticator(sandbox_id="local", secret=SECRET)
    token, _ = authenticator.issue(subject="me", scopes=["terminal"])
    async with serving(example_app(authenticator)) as address:
        url = f"ws://{address}/terminal"
        headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "ws-2"}
        async with opened(url, additional_headers=headers) as connection:
            assert await connection.recv() == "me"
            assert connection.response is not None
            assert connection.response.headers["x-request-id"] == "ws-2"
        async with opened(f"{url}?token={token}") as connection:
            assert await connection.recv() == "me"
        status, _, body = await rejected(f"{url}?token=nonsense")
        assert (status, body["code"]) == (401, "TOKEN_INVALID")


async def test_other_websocket_refusals_have_a_body_too() -> None:
    async with serving(example_app()) as address:
        found = {
            path: (await rejected(f"ws://{address}/{path}"))
            for path in ("nowhere", "number?size=x", "refusing", "broken", "context")
        }
    assert {path: (status, body["code"]) for path, (status, _, body) in found.items()} == {
        "nowhere": (404, "ROUTE_NOT_FOUND"),
        "number?size=x": (400, "INVALID_REQUEST"),
        "refusing": (403, "ACCESS_DENIED"),
        "broken": (500, "INTERNAL_ERROR"),
        "context": (404, "ROUTE_NOT_FOUND"),
    }
    assert all("x-request-id" in headers for _, headers, _ in found.values())


@pytest.mark.parametrize(("path", "code"), [("broken_late", 1011), ("raw_socket", 1008)])
async def test_errors_after_the_handshake_close_the_websocket(path: str, code: int) -> None:
    async with serving(example_app()) as address, opened(f"ws://{address}/{path}") as connection:
        with pytest.raises(websockets.ConnectionClosed):
            await connection.recv()
        assert connection.close_code == code


async def test_a_websocket_client_that_leaves_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(example_app()) as address, opened(f"ws://{address}/leaves"):
        pass
    assert not [record for record in caplog.records if record.exc_info]


async def test_uvicorns_own_lines_do_not_show_a_query_token(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logs.TextFormatter())
    log = logging.getLogger("uvicorn.error")
    log.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "uvicorn.error"):
            async with serving(example_app()) as address:
                url = f"ws://{address}/terminal?token=very-secret"
                async with opened(url) as connection:
                    await connection.recv()
    finally:
        log.removeHandler(handler)
    written = capsys.readouterr().err
    assert "token=[redacted]" in written
    assert "very-secret" not in written
