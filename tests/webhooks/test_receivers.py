"""Receivers that are away, hang, break off or pour."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, until
from tests.webhooks.receivers import Call, Receiver, answer, hang, opened


async def test_a_receiver_that_is_not_there_yet_is_tried_again(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        # Bound and not listening: nobody else gets the port, and whoever connects is refused.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        await be_there_late(tmp_path, int(reserved.getsockname()[1]))


async def be_there_late(tmp_path: Path, port: int) -> None:
    async with opened(tmp_path) as office:
        webhook = await office.post(f"http://127.0.0.1:{port}/")
        delivery = await office.attempted(webhook, 3)
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
        opened(tmp_path, timeout=1) as office,
        Receiver(hang, answer(200)).listening() as receiver,
    ):
        webhook = await office.post(receiver.url)
        await until(lambda: len(receiver.calls) == 1)
        first = time.monotonic()
        await until(lambda: len(receiver.calls) == 2)
        assert time.monotonic() - first > 0.9
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
            await asyncio.sleep(0.01)

    async with (
        opened(tmp_path, timeout=1, retry_time=0) as office,
        Receiver(drip).listening() as receiver,
    ):
        begun = time.monotonic()
        delivery = await office.ended(await office.post(receiver.url))
        assert time.monotonic() - begun > 0.95
        await until(lambda: receiver.at_once == 0)
    assert dripped >= 3
    assert (delivery.state, delivery.last_status) == ("failed", None)
    assert delivery.last_error == "no answer within 1 seconds"


async def test_a_body_without_an_end_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelagent.webhooks.sender._DRAIN_TIME", 0.1)
    sent = 0

    async def pour(_: Call, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with (
        opened(tmp_path, timeout=10 * PATIENCE) as office,
        Receiver(pour).listening() as receiver,
    ):
        delivery = await office.ended(await office.post(receiver.url))
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


async def test_a_status_counts_although_its_body_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stop(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await hang(call, writer)

    # Whichever ends first: the time for the attempt, or that for the body.
    for timeout, drain_time in ((1.0, 10 * PATIENCE), (10 * PATIENCE, 0.1)):
        monkeypatch.setattr("kernelagent.webhooks.sender._DRAIN_TIME", drain_time)
        async with (
            opened(tmp_path / str(timeout), timeout=timeout) as office,
            Receiver(stop).listening() as receiver,
        ):
            delivery = await office.ended(await office.post(receiver.url))
        assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)
