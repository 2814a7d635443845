"""What holds for every route: who may use it, what documents it, what it refuses and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts
from starlette.routing import Route

from kernelagent.app import create_app
from kernelagent.auth.tokens import ALTERNATIVE, SCOPES
from kernelagent.settings import load_settings
from tests.servers import SECRET

PUBLIC = {"/", "/ping", "/health", "/info", "/system"}
# Answers in formats of their own.
TEXTS = {"GET /metrics/prometheus"}
DOCUMENTATION = {"/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"}

# What these answer with has no fields.
BYTES = {"GET /files/download", "GET /files/archive"}

METHODS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    root = tmp_path_factory.mktemp("routes")
    settings = load_settings(
        workspace=root / "workspace", state_dir=root / "state", jwt_secret=SECRET
    )
    return create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> Any:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def routes(app: FastAPI) -> Iterator[tuple[str, Any]]:
    """Path and route of everything that the application serves."""
    for context in iter_route_contexts(app.routes):
        assert context.path is not None
        yield context.path, context


def dependencies(dependant: Dependant) -> Iterator[Any]:
    """Every function that a route depends on."""
    for inner in dependant.dependencies:
        yield inner.call
        yield from dependencies(inner)


def http_calls(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of every HTTP route, with a value for each parameter."""
    return [
        (method, re.sub(r"\{\w+\}", "some", path))
        for path, context in routes(app)
        if isinstance(context.original_route, APIRoute)
        for method in context.original_route.methods or ()
    ]


def test_every_route_is_ours_or_documentation(app: FastAPI) -> None:
    for path, context in routes(app):
        route = context.original_route
        if isinstance(route, APIRoute | APIWebSocketRoute):
            continue
        assert isinstance(route, Route)
        assert path in DOCUMENTATION


def test_every_route_declares_who_may_use_it(app: FastAPI) -> None:
    checked = set()
    for path, context in routes(app):
        if not isinstance(context.original_route, APIRoute | APIWebSocketRoute):
            continue
        scopes = {call.scope for call in dependencies(context.dependant) if hasattr(call, "scope")}
        assert len(scopes) == 1, f"{path} declares {scopes or 'nothing'}"
        (scope,) = scopes
        assert (scope is None) == (path in PUBLIC), f"{path} declares {scope}"
        assert scope is None or set(scope.split(ALTERNATIVE)) <= SCOPES
        checked.add(path)

    assert {"/execute", "/execute/stream", "/sessions/{session_id}", "/health"} <= checked


async def test_every_route_without_a_token_is_401(app: FastAPI, client: httpx.AsyncClient) -> None:
    for method, path in http_calls(app):
        if path in PUBLIC:
            continue
        for content in (b"", b"{", b"{}"):
            response = await client.request(method, path, content=content)

            assert response.status_code == 401, f"{method} {path}"
            body = response.json()
            assert body["code"] == "AUTHENTICATION_REQUIRED"
            assert body["error"] == body["message"]
            assert body["request_id"] == response.headers["x-request-id"]
            assert response.headers["www-authenticate"] == "Bearer"


async def test_every_route_refuses_other_methods_in_the_same_shape(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    allowed: dict[str, set[str]] = {}
    for method, path in http_calls(app):
        allowed.setdefault(path, set()).add(method)

    for path, methods in allowed.items():
        for method in {"HEAD", "PUT", "PATCH", "TRACE", "BREW"} - methods:
            response = await client.request(method, path)

            assert response.status_code == 405, f"{method} {path}"
            assert response.headers["x-request-id"]
            assert methods >= set(response.headers["allow"].split(", "))
            if method != "HEAD":
                assert response.json()["code"] == "METHOD_NOT_ALLOWED"
                assert response.json()["path"] == path


async def test_no_route_redirects(app: FastAPI, client: httpx.AsyncClient) -> None:
    for method, path in http_calls(app):
        if path == "/":
            continue
        response = await client.request(method, f"{path}/")

        assert response.status_code == 404, f"{method} {path}/"
        assert response.json()["code"] == "ROUTE_NOT_FOUND"


async def test_documentation_can_be_read_without_a_token(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


# OpenAPI


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and description of each operation."""
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            yield f"{method.upper()} {path}", item[method]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference means."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_http_route_is_in_the_document(app: FastAPI, document: dict[str, Any]) -> None:
    documented = {name for name, _ in operations(document)}

    assert documented == {
        f"{method} {path}"
        for path, context in routes(app)
        if isinstance(context.original_route, APIRoute)
        for method in context.original_route.methods or ()
    }


def test_every_operation_has_a_sentence(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"].strip().endswith((".", "?")), name
        assert operation["tags"], name


def test_every_answer_names_its_fields(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if name.split(" ")[1] in PUBLIC or name in BYTES:
            continue
        success = [status for status in operation["responses"] if status.startswith("2")]
        assert len(success) == 1, name
        content = operation["responses"][success[0]]["content"]
        if name in TEXTS:
            assert "application/json" not in content
            continue
        schema = resolved(document, content["application/json"]["schema"])
        assert schema["properties"], name


def test_answers_of_bytes_name_their_types(document: dict[str, Any]) -> None:
    found = {
        name: {
            status: set(answer.get("content", ()))
            for status, answer in operation["responses"].items()
            if not status.startswith(("4", "d"))
        }
        for name, operation in operations(document)
        if name in BYTES
    }
    assert found == {
        "GET /files/download": {
            "200": {"application/octet-stream"},
            "206": {"application/octet-stream"},
            "304": set(),
        },
        "GET /files/archive": {"200": {"application/x-tar", "application/gzip", "application/zip"}},
    }


def test_every_protected_operation_documents_its_errors(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert "422" not in operation["responses"], name
        if name.split(" ")[1] in PUBLIC:
            continue
        for status in ("400", "401", "403", "409"):
            content = operation["responses"][status]["content"]
            schema = resolved(document, content["application/json"]["schema"])
            assert {"error", "message", "code", "details", "request_id"} <= set(
                schema["properties"]
            ), name


@pytest.mark.parametrize("path", ["/execute", "/execute/rich", "/execute/ipython"])
def test_running_code_is_documented_field_by_field(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    answers = operation["responses"]["200"]["content"]

    answer = resolved(document, answers["application/json"]["schema"])["properties"]
    slots = {"png", "html", "json", "svg", "markdown", "result", "dataframe", "chart"}
    facts = {"success", "stdout", "stderr", "exit_code", "execution_time", "rich_outputs"}
    assert slots | facts <= set(answer)
    assert ("outputs" in answer) == (path == "/execute/rich")
    assert {"application/x-ndjson", "text/event-stream"} <= set(answers)

    request = operation["requestBody"]["content"]["application/json"]["schema"]
    fields = resolved(document, request)["properties"]
    assert {"code", "language", "timeout", "workdir", "env", "session_id", "isolated"} <= set(
        fields
    )
    assert all(field.get("description") for field in fields.values())


def test_every_reference_in_the_document_resolves(document: dict[str, Any]) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                assert resolved(document, value)
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)

    check(document)
