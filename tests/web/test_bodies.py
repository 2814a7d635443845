"""Bodies that JSON can spell and nothing can be done with are refused by every route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.runs import client_of
from tests.servers import Server

Schema = dict[str, Any]

HALF = "\ud800"


def requests(api: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Method, path and schema of the body of each route that takes JSON."""
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                yield method, path, content["application/json"]["schema"]


def variants(api: Schema, schema: Schema) -> list[Schema]:
    """What a schema allows, without references and null."""
    if "$ref" in schema:
        return variants(api, api["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [found for one in schema["anyOf"] for found in variants(api, one)]
    return [] if schema.get("type") == "null" else [schema]


def harmless(schema: Schema) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    by_type: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": False, "array": []}
    return by_type.get(schema.get("type", ""), {} if schema.get("type") == "object" else "x")


def broken(schema: Schema) -> list[Any]:
    """Values of this schema that hold half of a surrogate pair."""
    match schema.get("type"):
        case "string":
            return [] if "enum" in schema or "const" in schema else [HALF, f"é{HALF}"]
        case "array" if schema.get("items", {}).get("type") == "string":
            return [[HALF]]
        case "object" if schema.get("additionalProperties", {}).get("type") == "string":
            return [{"A": HALF}, {HALF: "a"}]
    return []


async def test_half_a_character_is_refused(server: Server) -> None:
    tried = []
    async with client_of(server) as client:
        api = (await client.get("/openapi.json")).json()
        for method, path, body in requests(api):
            for schema in variants(api, body):
                properties = schema.get("properties", {})
                base = {
                    name: harmless(variants(api, properties[name])[0])
                    for name in schema.get("required", [])
                }
                for name, wanted in properties.items():
                    for value in (v for one in variants(api, wanted) for v in broken(one)):
                        response = await client.request(
                            method,
                            re.sub(r"\{[^}]*\}", "x", path),
                            content=json.dumps({**base, name: value}),
                            headers={"Content-Type": "application/json"},
                        )
                        assert 400 <= response.status_code < 500, (path, name, response.text)
                        tried.append((path, name, response.json()["code"]))
    assert len({path for path, _, _ in tried}) > 15
    assert ("/commands/run", "stdin", "INVALID_REQUEST") in tried
    assert ("/execute", "code", "INVALID_JSON") in tried


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 100_000])
async def test_a_body_that_is_too_deep_is_refused(server: Server, body: str) -> None:
    async with client_of(server) as client:
        api = (await client.get("/openapi.json")).json()
        for method, path, _ in requests(api):
            response = await client.request(
                method,
                re.sub(r"\{[^}]*\}", "x", path),
                content=body,
                headers={"Content-Type": "application/json"},
            )
            assert 400 <= response.status_code < 500, (path, response.text)
