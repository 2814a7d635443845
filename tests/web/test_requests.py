"""What every request passes: ids and headers, at a cost of microseconds."""

from __future__ import annotations

import logging
import time
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from kernelagent import logs
from kernelagent.web.middleware import RequestContext
from tests.web.example import LIMIT, client_of, example_app


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
