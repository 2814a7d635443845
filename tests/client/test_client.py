"""What the client makes of answers."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import pytest

from kernelagent.client import ServiceClient, ServiceError, ServiceUnreachable, is_loopback


def client_of(response: httpx.Response) -> ServiceClient:
    transport = httpx.MockTransport(lambda _: response)
    return ServiceClient("http://service.invalid", token="t", transport=transport)


async def test_error_answers_become_service_errors() -> None:
    body = {"error": "full", "message": "full", "code": "QUEUE_FULL"}
    async with client_of(httpx.Response(409, json=body)) as client:
        with pytest.raises(ServiceError) as caught:
            await client.execute_rich("1")
        with pytest.raises(ServiceError):
            await anext(client.execute_stream("1"))

    assert (caught.value.status, caught.value.code) == (409, "QUEUE_FULL")


async def test_answers_of_another_server_are_errors_too() -> None:
    for response in (httpx.Response(502, text="<html>"), httpx.Response(200, text="<html>")):
        async with client_of(response) as client:
            with pytest.raises(ServiceError):
                await client.health()


async def test_stream_without_its_last_message_is_an_error() -> None:
    lines = '{"type":"started"}\n{"type":"stdout","data":"x"}\n'
    async with client_of(httpx.Response(200, text=lines)) as client:
        with pytest.raises(ServiceUnreachable, match="before the run was over"):
            async for _ in client.execute_stream("1"):
                pass


async def test_no_http_url_is_told() -> None:
    async with ServiceClient("service.invalid") as client:
        with pytest.raises(ServiceUnreachable, match="no http URL"):
            await client.health()


def test_authorities_are_loaded_only_for_encrypted_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = []
    load = ssl.SSLContext.load_verify_locations

    def note(self: ssl.SSLContext, *places: Any, **named: Any) -> None:
        loaded.append(places)
        load(self, *places, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", note)

    ServiceClient("http://127.0.0.1:7777")
    ServiceClient("HTTP://service.invalid")
    assert loaded == []
    ServiceClient("https://service.invalid")
    assert loaded


def test_loopback_urls() -> None:
    for url in ("http://127.0.0.1:7777", "http://localhost", "http://[::1]:1", "http://127.9.9.9"):
        assert is_loopback(url)
    for url in ("http://10.0.0.1", "http://localhost.example.org", "nonsense", "http://[broken"):
        assert not is_loopback(url)
