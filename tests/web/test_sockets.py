"""WebSockets before and after the handshake: refused, opened, broken off."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import websockets

from kernelagent import logs
from kernelagent.auth.tokens import Authenticator
from tests.web.example import example_app, serving


def opened(url: str, **options: Any) -> websockets.connect:
    return websockets.connect(url, proxy=None, **options)


async def rejected(url: str, **options: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body with which the server refuses the handshake."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await opened(url, **options)
    response = caught.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return response.status_code, headers, json.loads(response.body or b"{}")


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
