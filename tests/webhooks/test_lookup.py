"""No webhook gets into a private network by a name; what is looked up is what is reached."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.waiting import until
from tests.webhooks.names import Names
from tests.webhooks.receivers import Receiver, hang, opened


async def test_the_address_that_was_checked_is_the_one_that_is_reached(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with (
        opened(tmp_path, allow=("127.0.0.1",), getaddrinfo=names) as office,
        Receiver().listening() as receiver,
        Receiver().listening(receiver.port, host="127.0.0.2") as other,
    ):
        delivery = await office.ended(await office.post(f"http://Hook.Example:{receiver.port}/a"))
    assert delivery.state == "delivered"
    assert names.asked == ["hook.example"]
    assert receiver.calls[0].headers["host"] == f"hook.example:{receiver.port}"
    assert other.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        [*(f"8.8.8.{number}" for number in range(10)), "10.0.0.1"],
        ["2606:4700:4700::1111", "fe80::1%2"],
        ["::ffff:127.0.0.1"],
        ["fe80::1%3"],
    ],
)
async def test_a_name_with_any_private_address_is_refused_for_good(
    tmp_path: Path, addresses: list[str]
) -> None:
    names = Names(addresses)
    async with (
        opened(tmp_path, allow=("192.168.0.0/16", "other.example"), getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://hook.example:{receiver.port}/"))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 1, None)
    assert "KERNELAGENT_WEBHOOK_ALLOW" in delivery.last_error
    assert "hook.example" in delivery.last_error
    assert not [address for address in addresses if address in delivery.last_error]
    assert (len(names.asked), receiver.connections) == (1, 0)


async def test_a_zone_of_a_look_up_is_not_overlooked(tmp_path: Path) -> None:
    async with opened(
        tmp_path, allow=("fe80::/10",), getaddrinfo=Names(["fe80::1%3"]), retry_time=0
    ) as office:
        delivery = await office.ended(await office.post("http://hook.example/"))
    assert "not public" in delivery.last_error


async def test_a_name_that_is_allowed_may_be_private(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"])
    async with (
        opened(tmp_path, allow=("hook.internal",), getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        webhook = await office.post(f"http://HOOK.internal.:{receiver.port}/")
        assert (await office.ended(webhook)).state == "delivered"


async def test_an_address_that_is_allowed_no_longer_is_refused_at_delivery(tmp_path: Path) -> None:
    async with Receiver(hang).listening() as receiver:
        async with opened(tmp_path) as office:
            webhook = await office.post(receiver.url)
            await until(lambda: len(receiver.calls) == 1)
        async with opened(tmp_path, allow=()) as office:
            delivery = await office.ended(webhook)
    assert delivery.state == "failed"
    assert "127.0.0.1 is not a public address" in delivery.last_error
    assert len(receiver.calls) == 1


async def test_the_systems_look_up_is_used(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, allow=("localhost",)) as office,
        Receiver().listening() as receiver,
    ):
        webhook = await office.post(f"http://localhost:{receiver.port}/")
        assert (await office.ended(webhook)).state == "delivered"
    async with (
        opened(tmp_path / "closed", allow=()) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://localhost:{receiver.port}/"))
        assert delivery.state == "failed"
        assert receiver.connections == 0


async def test_the_next_address_is_tried(tmp_path: Path) -> None:
    names = Names(["127.0.0.3", "127.0.0.1"])
    async with (
        opened(tmp_path, getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://hook.example:{receiver.port}/"))
    assert (delivery.state, delivery.attempts) == ("delivered", 1)


async def test_a_name_that_is_not_known_yet_is_tried_again(tmp_path: Path) -> None:
    names = Names([], [], ["127.0.0.1"])
    async with (
        opened(tmp_path, getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://hook.example:{receiver.port}/"))
    assert (delivery.state, delivery.attempts, len(names.asked)) == ("delivered", 3, 3)


async def test_a_name_that_is_not_known_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, getaddrinfo=Names([]), retry_time=0) as office:
        delivery = await office.ended(await office.post("http://hook.example/?secret"))
    assert delivery.last_error == "hook.example could not be looked up: Name or service not known"


async def test_a_look_up_that_hangs_is_part_of_the_attempt(tmp_path: Path) -> None:
    gate = threading.Event()
    names = Names(["127.0.0.1"], gate=gate)
    try:
        async with opened(tmp_path, getaddrinfo=names, timeout=0.2, retry_time=0) as office:
            delivery = await office.ended(await office.post("http://hook.example/"))
            assert delivery.last_error == "no answer within 0.2 seconds"
    finally:
        hanging = [thread for thread in threading.enumerate() if thread.name == "webhook-resolver"]
        gate.set()
    # It can end later without harm, and nothing waits for it.
    assert hanging
    assert all(thread.daemon for thread in hanging)
    await until(lambda: not any(thread.is_alive() for thread in hanging))
