"""What arrives at a receiver, and what its answers mean."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import time
from pathlib import Path

import pytest

from kernelagent import __version__
from tests.webhooks.receivers import QUICK, Call, Receiver, answer, opened


async def test_a_delivery_has_the_stored_bytes_and_the_promised_headers(tmp_path: Path) -> None:
    body = '{"stdout": "é\\n", "n": 1.0}\n'.encode()
    before = int(time.time())
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        webhook = await office.post(
            receiver.url + "/a%20b?key=v&x=é", body, {"X-Mine": " é ", "Authorization": "Bearer t"}
        )
        delivery = await office.ended(webhook)
    (call,) = receiver.calls
    assert call.line == "POST /hook/a%20b?key=v&x=%C3%A9 HTTP/1.1"
    assert call.body == body
    assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"] == f"kernelagent/{__version__}"
    assert call.headers["x-mine"] == "é"
    assert call.headers["authorization"] == "Bearer t"
    assert call.headers["idempotency-key"] == webhook.id
    assert call.headers["x-hopx-attempt"] == "1"
    assert call.headers["x-hopx-timestamp"].isdigit()
    assert before <= int(call.headers["x-hopx-timestamp"]) <= time.time()
    assert "x-hopx-signature" not in call.headers
    assert len(call.names) == len(set(call.names))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)
    assert delivery.last_error == ""
    assert delivery.due_at is None
    assert delivery.ended_at is not None
    assert before <= delivery.ended_at <= time.time()


def signature(secret: str, call: Call) -> str:
    message = call.headers["x-hopx-timestamp"].encode() + call.body
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("size", [0, 100, 2**20])
async def test_a_delivery_is_signed(tmp_path: Path, size: int) -> None:
    body = b"x" * size
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        await office.ended(await office.post(receiver.url, body, secret="sésame"))
    (call,) = receiver.calls
    assert call.body == body
    assert call.headers["x-hopx-signature"] == signature("sésame", call)
    assert call.headers["x-hopx-signature"] != signature("sesame", call)


async def test_the_caller_may_replace_what_is_only_a_default(tmp_path: Path) -> None:
    theirs = {"content-TYPE": "application/x-mine", "User-agent": "me"}
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        await office.ended(await office.post(receiver.url, headers=theirs))
    (call,) = receiver.calls
    assert call.headers["content-type"] == "application/x-mine"
    assert call.headers["user-agent"] == "me"
    assert len(call.names) == len(set(call.names))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_an_answer_that_may_change_is_asked_for_again(tmp_path: Path, status: int) -> None:
    again = Receiver(answer(status), answer(status), answer(201))
    async with opened(tmp_path) as office, again.listening() as receiver:
        webhook = await office.post(receiver.url, secret="s")
        delivery = await office.ended(webhook)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 3, 201)
    assert delivery.last_error == ""
    assert [call.headers["x-hopx-attempt"] for call in receiver.calls] == ["1", "2", "3"]
    assert {call.headers["idempotency-key"] for call in receiver.calls} == {webhook.id}
    assert all(call.headers["x-hopx-signature"] == signature("s", call) for call in receiver.calls)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 413, 422, 600])
async def test_other_answers_are_final(tmp_path: Path, status: int) -> None:
    async with opened(tmp_path) as office, Receiver(answer(status)).listening() as receiver:
        delivery = await office.ended(await office.post(receiver.url))
        await asyncio.sleep(2 * QUICK.first)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 1, status)
    assert str(status) in delivery.last_error
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(tmp_path: Path, status: int) -> None:
    async with opened(tmp_path) as office, Receiver().listening() as other:
        redirect = answer(status, f"Location: {other.url}")
        async with Receiver(redirect).listening() as receiver:
            delivery = await office.ended(await office.post(receiver.url))
    assert (delivery.state, delivery.last_status) == ("failed", status)
    assert "redirects are not followed" in delivery.last_error
    assert (len(receiver.calls), other.connections) == (1, 0)


async def test_proxies_of_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as office, Receiver().listening() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with Receiver().listening() as receiver:
            await office.ended(await office.post(receiver.url))
    assert (len(receiver.calls), proxy.connections) == (1, 0)


async def test_ipv6_is_spoken(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with opened(tmp_path) as office, Receiver().listening(host="::1") as receiver:
        await office.ended(await office.post(f"http://[0:0::1]:{receiver.port}/"))
    assert receiver.calls[0].headers["host"] == f"[0:0::1]:{receiver.port}"
