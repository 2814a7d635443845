"""Bodies that are too large."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from kernelagent.web import middleware
from tests.waiting import PATIENCE
from tests.web.example import LIMIT, chunks, client_of, example_app, http_client, serving


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
    async with asyncio.timeout(PATIENCE / 2):
        await example_app()(scope, receive, send)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_real_client_sees_the_413() -> None:
    app = example_app()
    async with serving(app) as address, http_client(address) as client:
        for content in (b"x" * 8_000_000, chunks(2_000_000)):
            response = await client.post("/raw", content=content)
            assert (response.status_code, response.json()["code"]) == (413, "BODY_TOO_LARGE")
        assert (await client.post("/raw", content=b"x")).json()["size"] == 1
