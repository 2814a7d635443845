"""What every request passes: ids, the size limit, headers of the answer, the access log."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from kernelagent import logs
from kernelagent.errors import AccessDenied, BodyTooLarge
from kernelagent.observers import Observers, RequestBegan, RequestEnded, span
from kernelagent.web.errors import DENIAL, error_response, failure_response, log_failure
from kernelagent.web.streaming import CLIENT_CLOSED_REQUEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

access_log = logging.getLogger("kernelagent.access")

# How long we read on after a refused body. A socket that is closed while the client still sends
# is reset, the client never sees the 413, and takes it for a broken connection worth a retry.
LINGER = 5.0

# Labels of what no route of ours has answered; no template can be called so.
_UNMATCHED = "unmatched"
_OTHER = "other"
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_LONGEST_SUBJECT = 200

_acceptable = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
# W3C trace context: version, trace, parent, flags; later versions may append fields.
_traceparent = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
).fullmatch
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")


class RequestContext:
    """The outermost middleware; add it with `app.add_middleware(RequestContext, ...)`.

    It answers what nothing else translated, so no exception reaches the server. Pure ASGI: it
    runs on every request and costs microseconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        body_limits: Mapping[str, int] | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.app = app
        self._observers = observers or Observers()
        self.max_body_bytes = max_body_bytes
        # By path: routes that read larger bodies, and do not keep them in memory.
        self.body_limits = body_limits or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        wished, length, trace = b"", 0, None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                wished = value
            elif name == b"content-length" and value.isdigit():
                length = int(value[:20])
            elif name == b"traceparent":
                trace = trace_of(value)
        # Tells requests apart and guards nothing, so it need not be hard to guess.
        request_id = wished.decode() if _acceptable(wished) else f"{random.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        request_variable = logs.request_id.set(request_id)
        trace_variable = logs.trace_id.set(trace)
        span_variable = span.set(None)
        started = time.perf_counter()
        self._observers.tell(RequestBegan(scope))
        exchange: _Request | _Handshake
        try:
            if kind == "http":
                limit = self.body_limits.get(scope["path"], self.max_body_bytes)
                exchange = _Request(receive, send, request_id, limit)
                await self._http(scope, exchange, length > limit)
            else:
                exchange = _Handshake(scope, send, request_id)
                await self._websocket(scope, receive, exchange)
        finally:
            self._end(scope, exchange.status, time.perf_counter() - started)
            span.reset(span_variable)
            logs.trace_id.reset(trace_variable)
            logs.request_id.reset(request_variable)

    def _end(self, scope: Scope, status: int | None, seconds: float) -> None:
        status = CLIENT_CLOSED_REQUEST if status is None else status
        method = scope.get("method", "WEBSOCKET")
        known = method if method in _METHODS or method == "WEBSOCKET" else _OTHER
        route = self._route(scope)
        self._observers.tell(RequestEnded(scope, known, route, status, seconds))
        if access_log.isEnabledFor(logging.INFO):
            fields = {
                "method": method,
                "path": scope["path"],
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
            }
            subject = scope["state"].get("subject")
            if subject:
                fields["subject"] = subject[:_LONGEST_SUBJECT]
            access_log.info("request", extra=fields)

    def _route(self, scope: Scope) -> str:
        """The template of the route that has answered; of these there are only so many."""
        template = getattr(scope.get("route"), "path", None)
        if template is not None:
            return str(template)
        # A route that is not ours, as those of the documentation.
        return _OTHER if "endpoint" in scope else _UNMATCHED

    async def _http(self, scope: Scope, request: _Request, is_too_long: bool) -> None:
        try:
            if is_too_long:
                response = error_response(request.refuse(), scope)
                await response(scope, request.receive, request.send)
            else:
                await self.app(scope, request.receive, request.send)
        except ClientDisconnect:
            pass
        except Exception as failure:
            if request.status is None:
                response = failure_response(failure, scope)
                await response(scope, request.receive, request.send)
            else:
                # Half an answer is out. The server drops the connection when we just return, so
                # the client sees that the rest is missing.
                log_failure(failure, scope)

    async def _websocket(self, scope: Scope, receive: Receive, handshake: _Handshake) -> None:
        try:
            await self.app(scope, receive, handshake.send)
        except WebSocketDisconnect:
            pass
        except Exception as failure:
            response = failure_response(failure, scope)
            if handshake.status is None and handshake.can_deny:
                await response(scope, receive, handshake.send)
            else:
                with suppress(RuntimeError, OSError):  # the server may have closed it already
                    await handshake.send({"type": "websocket.close", "code": 1011, "reason": ""})


class _Request:
    """One HTTP request: counts what comes in, completes the headers of what goes out."""

    __slots__ = (
        "_limit",
        "_more",
        "_receive",
        "_received",
        "_refused",
        "_request_id",
        "_send",
        "status",
    )

    def __init__(self, receive: Receive, send: Send, request_id: str, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._limit = limit
        self._received = 0
        self._more = True
        self._refused = False
        self.status: int | None = None

    def refuse(self) -> BodyTooLarge:
        self._refused = True
        return BodyTooLarge(
            f"the request body exceeds {self._limit} bytes", details={"limit": self._limit}
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._more = message.get("more_body", False)
            if self._received > self._limit:
                raise self.refuse()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._complete(message.get("headers", ()))}
        elif self._refused and kind == "http.response.body" and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": kind, "body": b"", "more_body": False}
        await self._send(message)

    def _complete(self, given: Any) -> list[tuple[bytes, bytes]]:
        headers = _complete(given, self._request_id)
        if self._refused:
            headers.append(_CLOSE)
        return headers

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while self._more:
                    message = await self._receive()
                    self._more = message.get("more_body", False)


class _Handshake:
    """One WebSocket: completes the headers of its handshake, accepted or refused."""

    __slots__ = ("_request_id", "_scope", "_send", "can_deny", "status")

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self.can_deny = DENIAL in scope.get("extensions", {})
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = 101
            headers = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode())]
            message = {**message, "headers": headers}
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
            headers = _complete(message.get("headers", ()), self._request_id)
            message = {**message, "headers": headers}
        elif kind == "websocket.close" and self.status is None:
            if self.can_deny:
                # Servers make a bare 403 of this; ours says the same with a body and an id.
                refusal = error_response(AccessDenied("the connection was refused"), self._scope)
                await refusal(self._scope, _nothing, self.send)
                return
            self.status = 403
        await self._send(message)


async def _nothing() -> Message:
    raise RuntimeError("a refusal reads nothing")


def _complete(given: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    headers = list(given)
    names = {name for name, _ in headers}
    if b"x-request-id" not in names:
        headers.append((b"x-request-id", request_id.encode()))
    if b"x-content-type-options" not in names:
        headers.append(_NOSNIFF)
    if b"cache-control" not in names:
        headers.append(_NO_STORE)
    return headers


def trace_of(traceparent: bytes) -> str | None:
    """The trace id in a W3C `traceparent` header; None if it is not one."""
    found = _traceparent(traceparent)
    return found[1].decode() if found else None
