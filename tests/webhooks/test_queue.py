"""Who waits for whom, and what the clock has to do with it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from kernelagent.database import Database
from kernelagent.settings import load_settings
from kernelagent.webhooks.backoff import Backoff
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.webhook import Webhook
from tests.waiting import PATIENCE, until
from tests.webhooks.receivers import LOOPBACK, Receiver, answer, hang, opened, rows


async def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path) -> None:
    slow = Backoff(first=600)
    async with (
        opened(tmp_path, backoff=slow) as office,
        Receiver(answer(503), answer(200)).listening() as receiver,
    ):
        webhook = await office.post(receiver.url)
        await office.attempted(webhook)

        # As it looks after the clock was set back by a day.

        await office.change("UPDATE webhooks SET due_at = due_at + 86400")
        office.outbox.wake()
        assert (await office.ended(webhook)).state == "delivered"


async def test_a_clock_that_is_set_forward_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelagent.webhooks.outbox._LONGEST_SLEEP", 0.2)
    slow = Backoff(first=600)
    async with (
        opened(tmp_path, backoff=slow) as office,
        Receiver(answer(503), answer(200)).listening() as receiver,
    ):
        webhook = await office.post(receiver.url)
        await office.attempted(webhook)

        # Nobody wakes it.
        await office.change("UPDATE webhooks SET due_at = due_at - 86400")
        assert (await office.ended(webhook)).state == "delivered"


async def test_a_receiver_that_hangs_does_not_delay_others(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, timeout=10 * PATIENCE) as office,
        Receiver(hang).listening() as dead,
        Receiver().listening() as receiver,
    ):
        # Other spellings of the host are the same receiver.
        for number in range(30):
            scheme = "HTTP" if number % 2 else "http"
            await office.post(f"{scheme}://127.0.0.1:{dead.port}/{number}")
        await until(lambda: len(dead.calls) == 4)
        url = receiver.url.replace("http", "HTTP")
        assert (await office.ended(await office.post(url))).state == "delivered"
        assert (dead.most_at_once, len(dead.calls)) == (4, 4)


async def test_a_bounded_number_is_sent_at_once_and_in_order(tmp_path: Path) -> None:
    seen: list[int] = []
    under_way = most = 0

    async def slow(*_: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        # The first ones wait for as many as there may be.
        await until(lambda: most >= 16)
        await asyncio.sleep(0.01)
        under_way -= 1

    async def reply(call: object, writer: asyncio.StreamWriter) -> None:
        await slow()
        await answer(200)(call, writer)  # type: ignore[arg-type]

    receivers = [Receiver(reply) for _ in range(8)]
    database = Database(tmp_path)
    async with (
        receivers[0].listening(),
        receivers[1].listening(),
        receivers[2].listening(),
        receivers[3].listening(),
        receivers[4].listening(),
        receivers[5].listening(),
        receivers[6].listening(),
        receivers[7].listening(),
    ):
        # All are there before the first is sent.
        await database.open()
        outbox = Outbox(database, load_settings(webhook_allow=LOOPBACK))

        def fill(connection: sqlite3.Connection) -> None:
            for number in range(64):
                url = receivers[number % 8].url
                outbox.register(connection, Webhook(f"job_{number}", url, {}, None))
                assert outbox.release(connection, f"job_{number}", str(number).encode())

        await database.run(fill)
        await database.close()
        async with opened(tmp_path):
            await until(lambda: sum(len(receiver.calls) for receiver in receivers) == 64)
            await until(lambda: under_way == 0)
    calls = sorted((call for receiver in receivers for call in receiver.calls), key=lambda c: c.at)
    seen = [int(call.body) for call in calls]
    assert most == 16
    assert sorted(seen) == list(range(64))
    # Never more than a batch ahead of its turn.
    assert all(abs(number - place) < 16 for place, number in enumerate(seen))


async def test_only_what_is_being_sent_is_in_memory(tmp_path: Path) -> None:
    loaded: set[bytes] = set()

    def trace(statement: str) -> None:
        if "RETURNING" in statement:
            loaded.add(statement.encode())

    async with opened(tmp_path) as office, Receiver(hang).listening() as dead:
        await office.database.run(lambda connection: connection.set_trace_callback(trace))
        for _ in range(20):
            await office.post(dead.url, b"x" * 100_000)
        await until(lambda: len(dead.calls) == 4)
        await asyncio.sleep(0.1)
    assert len(loaded) == 4


async def test_the_oldest_are_given_up_when_too_many_wait(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, most_pending=3, backoff=Backoff(first=600)) as office,
        Receiver(answer(503)).listening() as receiver,
    ):
        posted = [await office.post(receiver.url) for _ in range(5)]
        states = [(await office.look(webhook)).state for webhook in posted]
        assert states == ["failed", "failed", "pending", "pending", "pending"]
        oldest = await office.look(posted[0])
        assert oldest.last_error == "more than 3 webhooks wait"
        assert [row["body"] for row in rows(tmp_path)][:2] == [None, None]
