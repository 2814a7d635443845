"""What arrives at a receiver, and what its answers mean."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from kernelagent import __version__
from kernelagent.webhooks.backoff import Backoff, read_retry_after
from tests.webhooks.receivers import QUICK, Call, Receiver, answer, hang, opened, until


async def test_a_delivery_has_the_stored_bytes_and_the_promised_headers(tmp_path: Path) -> None:
    body = '{"stdout": "é\\n", "n": 1.0}\n'.encode()
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
    assert abs(int(call.headers["x-hopx-timestamp"]) - time.time()) < 5
    assert "x-hopx-signature" not in call.headers
    assert len(call.names) == len(set(call.names))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)
    assert delivery.last_error == ""
    assert delivery.due_at is None
    assert delivery.ended_at is not None
    assert abs(delivery.ended_at - time.time()) < 5


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
        await asyncio.sleep(0.1)
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


async def test_each_attempt_has_a_fresh_timestamp(tmp_path: Path) -> None:
    slow = Backoff(first=2.2, longest=3)
    async with (
        opened(tmp_path, backoff=slow) as office,
        Receiver(answer(503), answer(200)).listening() as receiver,
    ):
        await office.ended(await office.post(receiver.url))
    first, second = (int(call.headers["x-hopx-timestamp"]) for call in receiver.calls)
    assert first < second
    # Half of a pause may be left out.
    assert 1.05 < receiver.calls[1].at - receiver.calls[0].at < 4


@pytest.mark.parametrize("kind", ["seconds", "date"])
async def test_retry_after_is_the_least_pause(tmp_path: Path, kind: str) -> None:
    async def later(call: Call, writer: asyncio.StreamWriter) -> None:
        # A date has whole seconds: this one is more than one second away.
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        value = "1" if kind == "seconds" else format_datetime(moment, usegmt=True)
        await answer(503, f"Retry-After: {value}")(call, writer)

    async with opened(tmp_path) as office, Receiver(later, answer(200)).listening() as receiver:
        await office.ended(await office.post(receiver.url))
    assert 0.95 < receiver.calls[1].at - receiver.calls[0].at < 3


async def test_retry_after_does_not_outlast_the_time_to_try(tmp_path: Path) -> None:
    limit = answer(429, "Retry-After: 3600")
    patient = Backoff(first=0.02, longest=0.1, longest_asked=7200)
    async with (
        opened(tmp_path, retry_time=0.5, backoff=patient) as office,
        Receiver(limit).listening() as receiver,
    ):
        delivery = await office.ended(await office.post(receiver.url))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 2, 429)
    assert 0.4 < receiver.calls[1].at - receiver.calls[0].at < 2


async def test_retry_after_has_an_upper_bound(tmp_path: Path) -> None:
    bounded = Backoff(first=0.02, longest=0.1, longest_asked=0.2)
    async with (
        opened(tmp_path, backoff=bounded) as office,
        Receiver(answer(503, "Retry-After: 999999999999999"), answer(200)).listening() as receiver,
    ):
        await office.ended(await office.post(receiver.url))
    assert 0.15 < receiver.calls[1].at - receiver.calls[0].at < 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("9" * 5000, 999999999999),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("Thu, 01 Jan 1970 01:20:00 +0100", 200),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("Thu, 99 Jan 1970 00:20:00 GMT", None),
    ],
)
def test_retry_after_is_read(value: str, seconds: float | None) -> None:
    assert read_retry_after(value, 1000.0) == seconds


def test_pauses_double_to_a_bound_and_are_jittered() -> None:
    backoff = Backoff()
    for attempts, whole in [(1, 1), (2, 2), (5, 16), (10, 512), (11, 600), (5000, 600)]:
        pauses = {backoff.choose(attempts) for _ in range(200)}
        assert len(pauses) > 100
        assert whole / 2 <= min(pauses) < whole * 0.6
        assert whole * 0.9 < max(pauses) <= whole
    assert backoff.choose(1, 30) == 30
    assert backoff.choose(1, 1e9) == 3600
    assert backoff.choose(11, 1) >= 300


async def test_a_receiver_that_is_not_there_yet_is_tried_again(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        # Bound and not listening: nobody else gets the port, and whoever connects is refused.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        await be_there_late(tmp_path, int(reserved.getsockname()[1]))


async def be_there_late(tmp_path: Path, port: int) -> None:
    async with opened(tmp_path) as office:
        webhook = await office.post(f"http://127.0.0.1:{port}/")
        while (delivery := await office.look(webhook)).attempts < 3:
            await asyncio.sleep(0.01)
        assert delivery.state == "pending"
        assert delivery.due_at is not None
        assert delivery.last_error == "could not connect to 127.0.0.1: Connection refused"
        async with Receiver().listening(port) as receiver:
            delivery = await office.ended(webhook)
    assert delivery.state == "delivered"
    assert len(receiver.calls) == 1


async def test_a_connection_that_breaks_off_is_tried_again(tmp_path: Path) -> None:
    async def leave(_: Call, __: asyncio.StreamWriter) -> None:
        pass

    async def babble(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SMTP 220 hello\r\n\r\n")

    async def reset(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    broken = Receiver(leave, babble, reset, answer(200))
    async with opened(tmp_path) as office, broken.listening() as receiver:
        delivery = await office.ended(await office.post(receiver.url))
    assert (delivery.state, delivery.attempts) == ("delivered", 4)


async def test_a_receiver_that_hangs_is_left_and_tried_again(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, timeout=0.3) as office,
        Receiver(hang, answer(200)).listening() as receiver,
    ):
        webhook = await office.post(receiver.url)
        await until(lambda: len(receiver.calls) == 1)
        first = time.monotonic()
        await until(lambda: len(receiver.calls) == 2)
        assert 0.2 < time.monotonic() - first < 4
        delivery = await office.ended(webhook)
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


async def test_a_timeout_is_for_the_whole_attempt(tmp_path: Path) -> None:
    dripped = 0

    async def drip(_: Call, writer: asyncio.StreamWriter) -> None:
        nonlocal dripped
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Drip: 1\r\n")
            await writer.drain()
            dripped += 1
            await asyncio.sleep(0.05)

    async with (
        opened(tmp_path, timeout=1, retry_time=0) as office,
        Receiver(drip).listening() as receiver,
    ):
        begun = time.monotonic()
        delivery = await office.ended(await office.post(receiver.url))
        assert 0.95 < time.monotonic() - begun < 5
        await until(lambda: receiver.at_once == 0)
    assert dripped >= 3
    assert (delivery.state, delivery.last_status) == ("failed", None)
    assert delivery.last_error == "no answer within 1 seconds"


async def test_a_body_without_an_end_is_not_read(tmp_path: Path) -> None:
    sent = 0

    async def pour(_: Call, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with opened(tmp_path) as office, Receiver(pour).listening() as receiver:
        begun = time.monotonic()
        delivery = await office.ended(await office.post(receiver.url))
        assert time.monotonic() - begun < 4
        await until(lambda: receiver.at_once == 0)
    assert (delivery.state, delivery.last_status) == ("delivered", 200)
    # What it could write went into the buffers of both sides' systems.
    assert sent < 32 * 2**20


async def test_a_head_without_an_end_is_not_read(tmp_path: Path) -> None:
    async def pour(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Pad: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async with (
        opened(tmp_path, retry_time=0) as office,
        Receiver(pour).listening() as receiver,
    ):
        delivery = await office.ended(await office.post(receiver.url))
    assert (delivery.state, delivery.last_status) == ("failed", None)
    assert "65536 bytes" in delivery.last_error


async def test_a_status_counts_although_its_body_hangs(tmp_path: Path) -> None:
    async def stop(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await hang(call, writer)

    for timeout in (0.3, 60):
        async with (
            opened(tmp_path / str(timeout), timeout=timeout) as office,
            Receiver(stop).listening() as receiver,
        ):
            delivery = await office.ended(await office.post(receiver.url), 3)
        assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)


async def test_without_time_to_retry_there_is_one_attempt(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, retry_time=0) as office,
        Receiver(answer(503)).listening() as receiver,
    ):
        delivery = await office.ended(await office.post(receiver.url))
        await asyncio.sleep(0.1)
    assert len(receiver.calls) == 1
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 1, 503)
    assert delivery.last_error == "the receiver answered 503"


async def test_a_delivery_is_given_up_after_its_time(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, retry_time=0.6) as office,
        Receiver(answer(503)).listening() as receiver,
    ):
        begun = time.monotonic()
        delivery = await office.ended(await office.post(receiver.url))
        assert 0.5 < time.monotonic() - begun < 3
    assert delivery.state == "failed"
    assert delivery.attempts == len(receiver.calls) > 3


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


def test_the_default_pauses_are_those_that_are_promised() -> None:
    assert (Backoff().first, Backoff().longest) == (1.0, 600.0)
    assert QUICK.limit == 5
