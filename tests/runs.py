"""How tests run code on a server: in one piece, as a stream, in a session of their own."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.servers import Service
from tests.waiting import until

Message = dict[str, Any]

NDJSON = "application/x-ndjson"

# Every client makes its own TLS context otherwise, which takes longer than a run.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_of(server: Service, **headers: str) -> httpx.AsyncClient:
    """A client with a good token that sends `headers` too."""
    client = server.client(verify=_TLS)
    client.headers.update(headers)
    return client


async def run(server: Service, code: str, *, path: str = "/execute", **fields: Any) -> Message:
    """The answer to a run, which the service must have accepted."""
    async with client_of(server) as client:
        response = await client.post(path, json={"code": code, **fields})
    assert response.status_code == 200, response.text
    answer: Message = response.json()
    return answer


async def refused(server: Service, status: int, code: str, **fields: Any) -> Message:
    """The body of the answer to a run that must be refused with `status`."""
    async with client_of(server) as client:
        response = await client.post("/execute", json={"code": code, **fields})
    assert response.status_code == status, response.text
    body: Message = response.json()
    return body


@contextlib.asynccontextmanager
async def session(server: Service, **wanted: Any) -> AsyncIterator[str]:
    """The id of a session that is deleted afterwards."""
    async with client_of(server) as client:
        response = await client.post("/sessions", json=wanted)
        assert response.status_code == 201, response.text
        session_id: str = response.json()["id"]
        try:
            yield session_id
        finally:
            await client.delete(f"/sessions/{session_id}")


async def session_facts(server: Service, session_id: str) -> Message:
    """What GET /sessions/{id} says."""
    async with client_of(server) as client:
        response = await client.get(f"/sessions/{session_id}")
    assert response.status_code == 200, response.text
    facts: Message = response.json()
    return facts


async def until_busy(server: Service, session_id: str, *, queued: int = 0) -> None:
    """Wait until the session runs something and `queued` runs wait behind it."""

    async with client_of(server) as client:

        async def is_busy() -> bool:
            facts = (await client.get(f"/sessions/{session_id}")).json()
            return bool(facts.get("state") == "busy" and facts["queued"] == queued)

        await until(is_busy)


@contextlib.asynccontextmanager
async def streamed(server: Service, code: str, **fields: Any) -> AsyncIterator[httpx.Response]:
    """A run's NDJSON stream whose headers have arrived; leaving the context hangs up."""
    async with (
        client_of(server) as client,
        client.stream(
            "POST", "/execute", json={"code": code, **fields}, headers={"Accept": NDJSON}
        ) as response,
    ):
        assert response.status_code == 200
        yield response


async def messages(response: httpx.Response) -> AsyncIterator[Message]:
    """The messages of an NDJSON stream as they arrive."""
    async for line in response.aiter_lines():
        yield json.loads(line)


async def all_messages(server: Service, code: str, **fields: Any) -> list[Message]:
    """All messages of a run, without the keepalives."""
    async with streamed(server, code, **fields) as response:
        return [item async for item in messages(response) if item["type"] != "keepalive"]


def types(items: list[Message]) -> list[str]:
    """The types of messages, in order."""
    return [item["type"] for item in items]


def text_of(items: list[Message], kind: str = "stdout") -> str:
    """What the messages of one stream say, joined."""
    return "".join(item["data"] for item in items if item["type"] == kind)
