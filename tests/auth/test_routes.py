"""Which requests a token lets in, and how it is sent."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from kernelagent.auth.tokens import Authenticator, Principal
from kernelagent.errors import (
    AccessDenied,
    ApiError,
    AuthenticationRequired,
    TokenExpired,
    TokenInvalid,
)
from kernelagent.settings import load_settings
from kernelagent.web.errors import install_error_handlers
from kernelagent.web.guard import (
    PUBLIC,
    authorize,
    public,
    require,
    token_from_headers,
    token_from_scope,
)
from tests.auth.tokens import by_secret, signed


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bEARER   abc ")], "abc"),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"abc")], None),
        ([(b"x-kernelagent-token", b"abc")], "abc"),
        ([(b"x-kernelagent-token", b"abc"), (b"authorization", b"Bearer def")], "def"),
        ([(b"authorization", b"Basic abc"), (b"x-kernelagent-token", b"def")], "def"),
        ([(b"x-api-key", b"abc")], None),
    ],
)
def test_the_headers_that_carry_a_token(
    headers: list[tuple[bytes, bytes]], expected: str | None
) -> None:
    assert token_from_headers(headers) == expected


def test_a_query_token_is_for_websockets_only() -> None:
    scope: dict[str, Any] = {"headers": [], "query_string": b"a=1&token=abc%2E&token=x"}
    assert token_from_scope({**scope, "type": "websocket"}) == "abc."
    assert token_from_scope({**scope, "type": "http"}) is None
    scope["headers"] = [(b"authorization", b"Bearer def")]
    assert token_from_scope({**scope, "type": "websocket"}) == "def"


def example_app(authenticator: Authenticator) -> FastAPI:
    app = FastAPI()
    app.state.authenticator = authenticator
    install_error_handlers(app)

    @app.get("/files")
    async def files(principal: Annotated[Principal, Depends(require("files"))]) -> str:
        return principal.subject

    @app.get("/health", dependencies=[Depends(PUBLIC)])
    async def health() -> str:
        return "healthy"

    async def raw(request: Request) -> Response:
        return Response(authorize(request, "execute").subject)

    app.add_route("/raw", raw, ["GET"])
    return app


def client_of(app: FastAPI, token: str | None = None, **headers: str) -> httpx.AsyncClient:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://agent", headers=headers
    )


async def test_routes_let_the_right_tokens_in() -> None:
    app = example_app(by_secret())
    async with client_of(app, signed()) as client:
        assert (await client.get("/files")).json() == "someone"
        assert (await client.get("/raw")).text == "someone"
    async with client_of(app, **{"X-Kernelagent-Token": signed()}) as client:
        assert (await client.get("/files")).json() == "someone"
    async with client_of(app) as client:
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/files", "/raw"])
@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        (None, 401, "AUTHENTICATION_REQUIRED"),
        ("nonsense", 401, "TOKEN_INVALID"),
        (signed(exp=1), 401, "TOKEN_EXPIRED"),
        (signed(sandbox_id="other"), 403, "ACCESS_DENIED"),
        (signed(scope="env"), 403, "ACCESS_DENIED"),
    ],
)
async def test_routes_keep_the_others_out(
    path: str, token: str | None, status: int, code: str
) -> None:
    async with client_of(example_app(by_secret()), token) as client:
        response = await client.get(path)
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "not found" not in body["message"]


async def test_a_query_token_opens_no_http_route() -> None:
    async with client_of(example_app(by_secret())) as client:
        assert (await client.get("/files", params={"token": signed()})).status_code == 401


async def test_a_missing_scope_is_named() -> None:
    async with client_of(example_app(by_secret()), signed(scope="env")) as client:
        body = (await client.get("/files")).json()
    assert body["details"] == {"required_scope": "files"}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:8888", 200),
        ("https://evil.example", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_without_authentication_foreign_web_pages_stay_out(
    origin: str | None, status: int
) -> None:
    app = example_app(Authenticator.from_settings(load_settings(no_auth=True)))
    async with client_of(app, **({} if origin is None else {"Origin": origin})) as client:
        assert (await client.get("/files")).status_code == status


async def test_with_authentication_the_origin_does_not_matter() -> None:
    async with client_of(
        example_app(by_secret()), signed(), Origin="https://notebook.example"
    ) as client:
        assert (await client.get("/files")).status_code == 200


def test_routes_show_what_they_declared() -> None:
    app = example_app(by_secret())
    declared = {
        route.path: [dependency.call.scope for dependency in route.dependant.dependencies]  # type: ignore[union-attr]
        for route in app.routes
        if isinstance(route, APIRoute)
    }
    assert declared == {"/files": ["files"], "/health": [None]}
    assert public().scope is None


def test_an_unknown_scope_cannot_be_declared() -> None:
    with pytest.raises(ValueError, match="unknown scope"):
        require("flies")


def test_every_refusal_is_a_client_error() -> None:
    kinds: list[type[ApiError]] = [AuthenticationRequired, TokenInvalid, TokenExpired, AccessDenied]
    assert [kind.status for kind in kinds] == [401, 401, 401, 403]
