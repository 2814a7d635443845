"""Faults and the access log: what is answered, what is logged."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from starlette.types import Message

from kernelagent import logs
from tests.web.example import client_of, example_app, http_client, serving


async def test_a_fault_is_answered_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(example_app()) as address, http_client(address) as client:
        response = await client.get("/bug", headers={"X-Request-ID": "r-1"})
    assert (response.status_code, response.json()["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in response.text
    failures = [record for record in caplog.records if record.exc_info]
    assert [vars(record)["request_id"] for record in failures] == ["r-1"]


async def test_a_fault_in_mid_answer_breaks_the_answer_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(example_app()) as address, http_client(address) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/half")
    assert [record.name for record in caplog.records if record.exc_info] == ["kernelagent"]


async def test_a_client_that_leaves_while_it_sends_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: dict[str, Any] = {"type": "http", "path": "/raw", "method": "POST", "headers": []}
    with caplog.at_level(logging.INFO, "kernelagent"):
        await example_app()(scope, receive, send)
    (record,) = caplog.records
    assert (record.name, vars(record)["status"]) == ("kernelagent.access", 499)


async def test_the_access_log_has_no_query_no_headers_no_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "kernelagent.access"):
        async with client_of(example_app()) as client:
            await client.post(
                "/raw?token=secret", content=b"secret", headers={"Authorization": "Bearer secret"}
            )
    (record,) = [record for record in caplog.records if record.name == "kernelagent.access"]
    fields = vars(record)
    assert record.getMessage() == "request"
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", "/raw", 200)
    assert 0 < fields["duration_ms"] < 10_000
    assert "secret" not in str(fields)


async def test_the_access_log_knows_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logs.JsonFormatter())
    log = logging.getLogger("kernelagent.access")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        async with client_of(example_app()) as client:
            await client.get("/nowhere", headers={"X-Request-ID": "r-2"})
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    fields = json.loads(capsys.readouterr().err)
    assert (fields["request_id"], fields["status"]) == ("r-2", 404)


async def test_a_silent_access_log_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kernelagent.access"):
        async with client_of(example_app()) as client:
            await client.get("/context")
    assert not caplog.records
