"""Who may call a route: each declares it, and what is sent is held against that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import HTTPConnection

from kernelagent.auth.tokens import ALTERNATIVE, SCOPES, Authenticator, Principal
from kernelagent.errors import AccessDenied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

# In the state of a request: the scopes that its route asks for, and who has one of them.
_GRANTED = "granted"


def token_from_headers(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token in an ASGI scope's headers.

    X-Kernelagent-Token is for use behind proxies that keep Authorization for themselves.
    """
    spare = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1") or None
        if name == b"x-kernelagent-token" and spare is None:
            spare = value.strip().decode("latin-1") or None
    return spare


def token_from_scope(scope: Scope) -> str | None:
    """The token of a request; a WebSocket may carry it in its query, as browsers must."""
    token = token_from_headers(scope["headers"])
    if token is None and scope["type"] == "websocket":
        query = scope.get("query_string", b"").decode("latin-1")
        token = next((value for name, value in parse_qsl(query) if name == "token"), None)
    return token


def authorize(connection: HTTPConnection, *scopes: str) -> Principal:
    """Who makes the request, if their token opens one of `scopes`; raises what answers it."""
    authenticator: Authenticator = connection.app.state.authenticator
    if authenticator.is_open:
        _refuse_foreign_page(connection.scope["headers"])
    principal = authenticator.verify(token_from_scope(connection.scope))
    state = connection.scope.setdefault("state", {})
    state["subject"] = principal.subject
    if not any(map(principal.allows, scopes)):
        wanted = ALTERNATIVE.join(scopes)
        raise AccessDenied(
            f"the token lacks the scope {wanted}", details={"required_scope": wanted}
        )
    state[_GRANTED] = (scopes, principal)
    return principal


def principal_of(connection: HTTPConnection) -> Principal:
    """Who makes the request, once `authorize` has let it in."""
    principal: Principal = connection.scope["state"][_GRANTED][1]
    return principal


def _refuse_foreign_page(headers: Iterable[tuple[bytes, bytes]]) -> None:
    # Any web page can make the user's browser send requests to loopback; it cannot hide its origin.
    for name, value in headers:
        if name == b"origin" and not _is_loopback(value.decode("latin-1")):
            raise AccessDenied("without authentication, web pages of other hosts are refused")


def _is_loopback(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or host.endswith(".localhost") or _is_127(host)


def _is_127(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


def require(*scopes: str) -> Any:
    """A dependency for `Depends` that lets only tokens with one of `scopes` in.

    It returns the Principal; its attribute `scope` says what the route declared.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"unknown scope: {scope}")

    # FastAPI reads the annotation at run time: its class must be a real import.
    async def required(connection: HTTPConnection) -> Principal:
        granted = connection.scope.get("state", {}).get(_GRANTED)
        if granted is not None and granted[0] == scopes:
            return principal_of(connection)
        return authorize(connection, *scopes)

    required.scope = ALTERNATIVE.join(scopes)  # type: ignore[attr-defined]
    return required


def public() -> Any:
    """A dependency for `Depends` that declares a route open to everyone; its `scope` is None."""

    async def opened() -> None: ...

    opened.scope = None  # type: ignore[attr-defined]
    return opened


PUBLIC = public()
