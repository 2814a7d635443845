"""What the client makes of answers."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import pytest

from kernelagent.client import AsyncClient, ServiceError, ServiceUnreachable
from kernelagent.client.shared import is_loopback, read_answer
from tests.client.conftest import Connect


def client_of(connect: Connect, response: httpx.Response) -> AsyncClient:
    transport = httpx.MockTransport(lambda _: response)
    return connect("http://service.invalid", token="t", transport=transport)


async def test_error_answers_become_service_errors(connect: Connect) -> None:
    body = {"error": "full", "message": "full", "code": "QUEUE_FULL", "details": {"limit": 100}}
    async with client_of(connect, httpx.Response(409, json=body)) as client:
        with pytest.raises(ServiceError) as caught:
            await client.execute_rich("1")
        with pytest.raises(ServiceError) as streamed:
            await anext(client.execute_stream("1"))

    for error in (caught.value, streamed.value):
        assert (error.status, error.code, error.message) == (409, "QUEUE_FULL", "full")
        assert error.details == {"limit": 100}


async def test_answers_of_another_server_are_errors_too(connect: Connect) -> None:
    for response in (
        httpx.Response(502, text="<html>"),
        httpx.Response(502, json=["nothing of ours"]),
        httpx.Response(200, text="<html>"),
    ):
        async with client_of(connect, response) as client:
            with pytest.raises(ServiceError):
                await client.health()


async def test_stream_without_its_last_message_is_an_error(connect: Connect) -> None:
    lines = '{"type":"started"}\n{"type":"stdout","data":"x"}\n'
    async with client_of(connect, httpx.Response(200, text=lines)) as client:
        with pytest.raises(ServiceUnreachable, match="before the run was over"):
            async for _ in client.execute_stream("1"):
                pass


async def test_no_http_url_is_told(connect: Connect) -> None:
    async with connect("service.invalid") as client:
        with pytest.raises(ServiceUnreachable, match="not an http URL"):
            await client.health()


async def test_a_download_that_breaks_off_is_an_error(connect: Connect) -> None:
    class Half(httpx.AsyncByteStream, httpx.SyncByteStream):
        def __iter__(self) -> Any:
            yield b"half"
            raise httpx.RemoteProtocolError("closed")

        async def __aiter__(self) -> Any:
            for piece in self:
                yield piece

    async with client_of(connect, httpx.Response(200, stream=Half())) as client:
        with pytest.raises(ServiceUnreachable, match="broke: closed"):
            await client.read_file("x")


def test_authorities_are_loaded_only_for_encrypted_connections(
    monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    loaded = []
    load = ssl.SSLContext.load_verify_locations

    def note(self: ssl.SSLContext, *places: Any, **named: Any) -> None:
        loaded.append(places)
        load(self, *places, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", note)

    connect("http://127.0.0.1:7777")
    connect("HTTP://service.invalid")
    assert loaded == []
    connect("https://service.invalid")
    assert loaded


def test_loopback_urls() -> None:
    for url in ("http://127.0.0.1:7777", "http://localhost", "http://[::1]:1", "http://127.9.9.9"):
        assert is_loopback(url)
    for url in ("http://10.0.0.1", "http://localhost.example.org", "nonsense", "http://[broken"):
        assert not is_loopback(url)


def test_an_answer_without_content_says_nothing() -> None:
    assert read_answer("http://127.0.0.1", httpx.Response(204)) == {}
