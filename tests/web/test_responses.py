"""Answers: JSON that never fails, and every error in the one shape that clients read."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator  # FastAPI reads annotations at run time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message
from starlette.websockets import WebSocket

from kernelagent.errors import AccessDenied, ApiError, InvalidRequest, SessionNotFound
from kernelagent.text import utc_timestamp
from kernelagent.web.errors import (
    error_body,
    failure_response,
    install_error_handlers,
    validation_error,
)
from kernelagent.web.json import dump_json, json_response

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def client_of(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, **options), base_url="http://agent")


def test_timestamps_are_utc_with_six_digits() -> None:
    assert RFC3339.fullmatch(utc_timestamp())
    whole_second = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert utc_timestamp(whole_second) == "2025-01-02T03:04:05.000000Z"
    elsewhere = whole_second.astimezone(timezone(timedelta(hours=2)))
    assert utc_timestamp(elsewhere) == "2025-01-02T03:04:05.000000Z"


def test_a_json_response() -> None:
    response = json_response({"a": [1, None]}, 201, {"X-One": "1"})
    assert (response.status_code, response.body) == (201, b'{"a":[1,null]}')
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-one"] == "1"


@dataclass
class Point:
    x: int


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ok", "ok"),
        ("\udcff", "\ufffd"),
        ("a\ud83d\ude00b", "a\U0001f600b"),
        ({"\udcff": ["x\ud800"]}, {"\ufffd": ["x\ufffd"]}),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
        ({1: "\udcff", None: 2.5, False: (1,)}, {"1": "\ufffd", "null": 2.5, "false": [1]}),
        (["\udcff", float("nan"), float("inf")], ["\ufffd", None, None]),
        (2**100, 2**100),
        (["\udcff", Point(3), Colour.RED], ["\ufffd", {"x": 3}, "red"]),
        (["\udcff", datetime(2025, 1, 1, tzinfo=UTC)], ["\ufffd", "2025-01-01T00:00:00+00:00"]),
        (b"bytes", "b'bytes'"),
        ({("a", "b"): {1}}, {"('a', 'b')": "{1}"}),
    ],
)
def test_anything_becomes_json(value: Any, expected: Any) -> None:
    assert json.loads(dump_json(value)) == expected


def test_deep_nesting_is_cut() -> None:
    value: Any = []
    for _ in range(5000):
        value = [value]
    assert b"nested too deeply" in dump_json(value)


def test_the_body_of_an_error() -> None:
    body = error_body(InvalidRequest("no", details={"a": 1}), request_id="r", path="/x")
    assert RFC3339.fullmatch(body.pop("timestamp"))
    assert body == {
        "error": "no",
        "message": "no",
        "code": "INVALID_REQUEST",
        "details": {"a": 1},
        "path": "/x",
        "request_id": "r",
    }


def test_what_clients_read_at_the_top_is_lifted_out_of_the_details() -> None:
    details = {"path": "/workspace/a", "exit_code": 3, "missing_dependencies": ["xvfb"]}
    body = error_body(InvalidRequest("no", details=details), request_id="r", path="/files/read")
    assert (body["path"], body["exit_code"], body["missing_dependencies"]) == (
        "/workspace/a",
        3,
        ["xvfb"],
    )


class Run(BaseModel):
    code: str
    timeout: int = Field(60, ge=1)
    env: dict[str, str] = {}
    language: Literal["python", "go"] = "python"
    tags: list[int] = []

    @field_validator("timeout")
    @classmethod
    def _not_thirteen(cls, value: int) -> int:
        if value == 13:
            raise ValueError("Thirteen is refused")
        return value


def example_app() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)

    @app.post("/run")
    async def run(run: Run) -> str:
        return run.code

    @app.get("/read")
    async def read(path: str, limit: int = 1) -> str:
        return f"{path}{limit}"

    @app.get("/fail/{kind}")
    async def fail(kind: str) -> None:
        failures: dict[str, Exception] = {
            "session": SessionNotFound("no such session: s1"),
            "denied": AccessDenied("no"),
            "teapot": HTTPException(418, "a teapot", headers={"X-Tea": "1"}),
            "forbidden": HTTPException(403, "no"),
            "unknown": HTTPException(401),
            "gateway": HTTPException(502, "secret host down"),
            "large": HTTPException(413),
            "missing": HTTPException(404, "Not Found"),
            "bug": RuntimeError("secret code"),
        }
        raise failures[kind]

    router = APIRouter(prefix="/included")

    @router.get("/one")
    async def one() -> int:
        return 1

    app.include_router(router)
    return app


async def post(content: bytes | None, kind: str = "application/json") -> httpx.Response:
    async with client_of(example_app()) as client:
        return await client.post("/run", content=content, headers={"Content-Type": kind})


def check_shape(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert body["error"] == body["message"]
    assert isinstance(body["message"], str)
    assert body["message"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert RFC3339.fullmatch(body["timestamp"])
    assert isinstance(body["details"], dict)
    assert "detail" not in body
    assert response.headers["content-type"] == "application/json"
    return body


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"{", "INVALID_JSON", "the body is not valid JSON"),
        (b'{"code": "secret" oops}', "INVALID_JSON", "at character 18"),
        (b'{"code": "\xff"}', "INVALID_JSON", "UTF-8"),
        (b"[" * 100_000, "INVALID_JSON", "JSON"),
        (b"[1]", "INVALID_JSON", "the body must be a JSON object"),
        (b'"secret"', "INVALID_JSON", "the body must be a JSON object"),
        (b"", "MISSING_PARAMETER", "a JSON body is required"),
        (b"{}", "MISSING_PARAMETER", "code is required"),
        (b'{"code": ["secret"]}', "INVALID_REQUEST", "code: input should be a valid string"),
        (b'{"code": "", "timeout": "secret"}', "INVALID_REQUEST", "timeout: "),
        (b'{"code": "", "timeout": 13}', "INVALID_REQUEST", "timeout: thirteen is refused"),
        (b'{"code": "", "env": {"A": ["secret"]}}', "INVALID_REQUEST", "env.A: "),
        (b'{"code": "", "tags": [1, "secret"]}', "INVALID_REQUEST", "tags[1]: "),
        (b'{"code": "", "language": "secret"}', "INVALID_REQUEST", "'python' or 'go'"),
    ],
)
async def test_bodies_that_cannot_be_used(content: bytes, code: str, message: str) -> None:
    response = await post(content)
    body = check_shape(response)
    assert (response.status_code, body["code"]) == (400, code)
    assert message in body["message"]
    assert "secret" not in response.text


async def test_a_body_that_is_not_declared_as_json() -> None:
    response = await post(b'{"code": "1"}', "text/plain")
    assert check_shape(response)["code"] == "INVALID_JSON"


async def test_the_details_list_each_error_without_its_input() -> None:
    response = await post(b'{"timeout": "secret", "env": 3}')
    assert check_shape(response)["details"]["errors"] == [
        {"field": "code", "in": "body", "type": "missing", "message": "field required"},
        {
            "field": "timeout",
            "in": "body",
            "type": "int_parsing",
            "message": "input should be a valid integer, unable to parse string as an integer",
        },
        {
            "field": "env",
            "in": "body",
            "type": "dict_type",
            "message": "input should be a valid dictionary",
        },
    ]


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("", "MISSING_PARAMETER", "query parameter path is required"),
        ("path=a&limit=b", "INVALID_REQUEST", "limit: "),
    ],
)
async def test_query_parameters(query: str, code: str, message: str) -> None:
    async with client_of(example_app()) as client:
        response = await client.get(f"/read?{query}")
    body = check_shape(response)
    assert (response.status_code, body["code"]) == (400, code)
    assert body["message"].startswith(message)


def test_errors_of_a_model_read_by_hand() -> None:
    for content, code in [
        (b"{", "INVALID_JSON"),
        (b"[]", "INVALID_JSON"),
        (b"{}", "MISSING_PARAMETER"),
        (b'{"code": 1}', "INVALID_REQUEST"),
    ]:
        with pytest.raises(ValidationError) as caught:
            Run.model_validate_json(content)
        assert validation_error(caught.value.errors()).code == code


def test_an_unknown_tag_is_not_repeated() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    class Owner(BaseModel):
        pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]

    Owner.model_rebuild()
    with pytest.raises(ValidationError) as caught:
        Owner.model_validate({"pets": [{"kind": "secret"}]})
    error = validation_error(caught.value.errors())
    assert "'cat', 'dog'" in error.message
    assert "secret" not in str(error.details) + error.message


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("session", 404, "SESSION_NOT_FOUND"),
        ("denied", 403, "ACCESS_DENIED"),
        ("teapot", 418, "INVALID_REQUEST"),
        ("forbidden", 403, "ACCESS_DENIED"),
        ("unknown", 401, "AUTHENTICATION_REQUIRED"),
        ("gateway", 500, "INTERNAL_ERROR"),
        ("large", 413, "BODY_TOO_LARGE"),
        ("missing", 404, "ROUTE_NOT_FOUND"),
    ],
)
async def test_every_error_has_the_same_shape(kind: str, status: int, code: str) -> None:
    async with client_of(example_app()) as client:
        response = await client.get(f"/fail/{kind}")
    body = check_shape(response)
    assert (response.status_code, body["code"], body["path"]) == (status, code, f"/fail/{kind}")
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert response.headers.get("x-tea") == ("1" if kind == "teapot" else None)
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/run/", "/included/two", "/sandbox/x", "/sandbox/not%20found", "/Not%20Found"],
)
async def test_unknown_paths_avoid_the_words_that_clients_misread(path: str) -> None:
    async with client_of(example_app()) as client:
        response = await client.get(path)
    body = check_shape(response)
    assert (response.status_code, body["code"]) == (404, "ROUTE_NOT_FOUND")
    assert body["message"].startswith("no such route")
    assert "not found" not in body["message"].lower()


async def test_an_unknown_method_names_the_known_ones() -> None:
    async with client_of(example_app()) as client:
        response = await client.delete("/run")
    assert check_shape(response)["code"] == "METHOD_NOT_ALLOWED"
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_fault_of_ours_tells_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "kernelagent"):
        async with client_of(example_app(), raise_app_exceptions=False) as client:
            response = await client.get("/fail/bug")
    body = check_shape(response)
    assert (response.status_code, body["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in response.text
    (record,) = caplog.records
    assert vars(record)["request_id"] == body["request_id"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


def test_an_error_inside_a_task_group_is_still_itself() -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [SessionNotFound("no such session")])])
    assert failure_response(group, {"type": "http", "path": "/"}).status_code == 404
    two = ExceptionGroup("", [SessionNotFound("a"), SessionNotFound("b")])
    assert failure_response(two, {"type": "http", "path": "/"}).status_code == 500


async def test_errors_in_raw_routes_are_translated_too() -> None:
    app = example_app()

    async def raw(request: Request) -> Response:
        raise InvalidRequest("raw")

    app.add_route("/raw", raw)
    async with client_of(app) as client:
        assert check_shape(await client.get("/raw"))["message"] == "raw"


def test_no_error_asks_clients_to_send_the_same_again() -> None:
    def kinds(root: type[ApiError]) -> Iterator[type[ApiError]]:
        yield root
        for kind in root.__subclasses__():
            yield from kinds(kind)

    # Published clients repeat 429 and 5xx, and user code would run twice. NOT_READY may be
    # repeated: only the readiness probe answers with it, and it runs nothing.
    again = {kind.code for kind in kinds(ApiError) if kind.status == 429 or kind.status >= 500}
    assert again == {"INTERNAL_ERROR", "NOT_READY"}


async def closed_by(app: FastAPI, path: str) -> list[Message]:
    """What a server without the denial extension is sent for a handshake on `path`."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(
        {"type": "websocket", "path": path, "headers": [], "query_string": b""}, receive, send
    )
    return sent


async def test_a_websocket_without_the_extension_is_closed() -> None:
    app = example_app()

    async def refuse(websocket: WebSocket) -> None:
        raise AccessDenied("no")

    async def fail_late(websocket: WebSocket) -> None:
        await websocket.accept()
        raise SessionNotFound("no such session")

    app.add_api_websocket_route("/refuse", refuse)
    app.add_api_websocket_route("/late", fail_late)
    assert await closed_by(app, "/refuse") == [
        {"type": "websocket.close", "code": 1008, "reason": "ACCESS_DENIED"}
    ]
    assert (await closed_by(app, "/nowhere"))[-1]["code"] == 1008
    assert (await closed_by(app, "/late"))[1:] == [
        {"type": "websocket.close", "code": 1008, "reason": "SESSION_NOT_FOUND"}
    ]
