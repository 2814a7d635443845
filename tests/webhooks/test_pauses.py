"""When attempts are made, and when no more are."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernelagent.webhooks.backoff import Backoff, read_retry_after
from tests.webhooks.receivers import QUICK, Call, Receiver, answer, opened


async def test_each_attempt_has_a_fresh_timestamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that goes on by a minute whenever the sender looks at it.
    clock = SimpleNamespace(time=count(1_000_000, 60).__next__)
    monkeypatch.setattr("kernelagent.webhooks.sender.time", clock)
    slow = Backoff(first=0.4, longest=3)
    async with (
        opened(tmp_path, backoff=slow) as office,
        Receiver(answer(503), answer(200)).listening() as receiver,
    ):
        await office.ended(await office.post(receiver.url))
    first, second = (int(call.headers["x-hopx-timestamp"]) for call in receiver.calls)
    assert first < second
    # Half of a pause may be left out.
    assert receiver.calls[1].at - receiver.calls[0].at > 0.19


@pytest.mark.parametrize("kind", ["seconds", "date"])
async def test_retry_after_is_the_least_pause(tmp_path: Path, kind: str) -> None:
    async def later(call: Call, writer: asyncio.StreamWriter) -> None:
        # A date has whole seconds: this one is more than one second away.
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        value = "1" if kind == "seconds" else format_datetime(moment, usegmt=True)
        await answer(503, f"Retry-After: {value}")(call, writer)

    async with opened(tmp_path) as office, Receiver(later, answer(200)).listening() as receiver:
        await office.ended(await office.post(receiver.url))
    assert receiver.calls[1].at - receiver.calls[0].at > 0.95


async def test_retry_after_does_not_outlast_the_time_to_try(tmp_path: Path) -> None:
    limit = answer(429, "Retry-After: 3600")
    patient = Backoff(first=0.02, longest=0.1, longest_asked=7200)
    async with (
        opened(tmp_path, retry_time=0.5, backoff=patient) as office,
        Receiver(limit).listening() as receiver,
    ):
        delivery = await office.ended(await office.post(receiver.url))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 2, 429)
    assert receiver.calls[1].at - receiver.calls[0].at > 0.4


async def test_retry_after_has_an_upper_bound(tmp_path: Path) -> None:
    bounded = Backoff(first=0.02, longest=0.1, longest_asked=0.2)
    async with (
        opened(tmp_path, backoff=bounded) as office,
        Receiver(answer(503, "Retry-After: 999999999999999"), answer(200)).listening() as receiver,
    ):
        await office.ended(await office.post(receiver.url))
    assert receiver.calls[1].at - receiver.calls[0].at > 0.15


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


async def test_without_time_to_retry_there_is_one_attempt(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, retry_time=0) as office,
        Receiver(answer(503)).listening() as receiver,
    ):
        delivery = await office.ended(await office.post(receiver.url))
        await asyncio.sleep(2 * QUICK.first)
    assert len(receiver.calls) == 1
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 1, 503)
    assert delivery.last_error == "the receiver answered 503"


async def test_a_delivery_is_given_up_after_its_time(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, retry_time=1, backoff=Backoff(first=0.01, longest=0.02)) as office,
        Receiver(answer(503)).listening() as receiver,
    ):
        begun = time.monotonic()
        delivery = await office.ended(await office.post(receiver.url))
        assert time.monotonic() - begun > 0.95
    assert delivery.state == "failed"
    assert delivery.attempts == len(receiver.calls) > 3


def test_the_default_pauses_are_those_that_are_promised() -> None:
    assert (Backoff().first, Backoff().longest) == (1.0, 600.0)
    assert QUICK.limit == 5
