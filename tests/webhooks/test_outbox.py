"""The queue: what survives, what is erased, who waits for whom."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from kernelagent.database import FILE, Database
from kernelagent.settings import load_settings
from kernelagent.webhooks.backoff import Backoff
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.webhook import Webhook
from tests.webhooks.receivers import LOOPBACK, Call, Office, Receiver, answer, hang, opened, until

PRIVATE = ("sesame-secret", "header-value", "body-of-the-result")


def rows(directory: Path) -> list[dict[str, object]]:
    with closing(sqlite3.connect(directory / FILE)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM webhooks ORDER BY rowid")]


def stored_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


async def post_private(office: Office, url: str) -> Webhook:
    secret, header, body = PRIVATE
    return await office.post(url, body.encode() * 3000, {"X-Key": header}, secret)


async def test_a_webhook_waits_for_its_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        webhook = Webhook("job", receiver.url, {}, None)
        await office.database.run(lambda connection: office.outbox.register(connection, webhook))
        office.outbox.wake()
        await asyncio.sleep(0.1)
        delivery = await office.look(webhook)
        assert (delivery.state, delivery.attempts, delivery.due_at) == ("waiting", 0, None)
        assert delivery.id == webhook.id
        assert webhook.id.startswith("hook_")
        assert receiver.connections == 0

        def release(connection: sqlite3.Connection) -> list[bool]:
            release = office.outbox.release
            return [release(connection, job, b"{}") for job in ("other", "job", "job")]

        assert await office.database.run(release) == [False, True, False]
        office.outbox.wake()
        assert (await office.ended(webhook)).state == "delivered"
        assert await office.database.run(release) == [False, False, False]
    assert len(receiver.calls) == 1


async def test_deliveries_are_told_by_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        posted = [await office.post(receiver.url) for _ in range(3)]
        wanted = [posted[0].job_id, "unknown", posted[2].job_id, *map(str, range(5000))]
        found = await office.database.run(
            lambda connection: office.outbox.deliveries(connection, iter(wanted))
        )
        assert {job: delivery.id for job, delivery in found.items()} == {
            webhook.job_id: webhook.id for webhook in (posted[0], posted[2])
        }


async def test_a_url_is_shown_without_what_an_older_version_may_have_let_in(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as office:
        webhook = Webhook("job", "http://me:word@127.0.0.1/a?b=c@d", {}, None)
        await office.database.run(lambda connection: office.outbox.register(connection, webhook))
        assert (await office.look(webhook)).url == "http://127.0.0.1/a?b=c@d"


async def test_an_undone_transaction_sends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        webhook = Webhook("job", receiver.url, {}, None)

        def fail(connection: sqlite3.Connection) -> None:
            office.outbox.register(connection, webhook)
            office.outbox.release(connection, "job", b"{}")
            raise LookupError

        with pytest.raises(LookupError):
            await office.database.run(fail)
        office.outbox.wake()
        await asyncio.sleep(0.1)
        assert receiver.connections == 0
        assert rows(tmp_path) == []


@pytest.mark.parametrize("status", [200, 400])
async def test_what_was_sent_is_erased_when_it_is_over(tmp_path: Path, status: int) -> None:
    async with (
        opened(tmp_path) as office,
        Receiver(answer(503), answer(status)).listening() as receiver,
    ):
        webhook = await post_private(office, receiver.url)
        # They are there as long as they are needed: the check below would notice them.
        assert all(private.encode() in stored_bytes(tmp_path) for private in PRIVATE)
        await office.ended(webhook)
        (row,) = rows(tmp_path)
    assert (row["headers"], row["secret"], row["body"]) == ("{}", None, None)
    assert (row["url"], row["attempts"], row["last_status"]) == (receiver.url, 2, status)
    assert row["created_at"]
    assert row["ended_at"]
    stored = stored_bytes(tmp_path)
    assert webhook.id.encode() in stored
    assert not [private for private in PRIVATE if private.encode() in stored]


async def test_what_is_pending_goes_on_after_a_restart(tmp_path: Path) -> None:
    slow = Backoff(first=600)
    async with Receiver(answer(503), hang, answer(200)).listening() as receiver:
        async with opened(tmp_path, backoff=slow) as office:
            webhook = await office.post(receiver.url, b"[1]", {"X-Mine": "1"}, "s")
            await until(lambda: len(receiver.calls) == 1)
            while (await office.look(webhook)).last_status is None:
                await asyncio.sleep(0.01)
        (row,) = rows(tmp_path)
        assert (row["state"], row["attempts"], row["body"]) == ("pending", 1, b"[1]")
        with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
            connection.execute("UPDATE webhooks SET due_at = ?", (time.time() + 0.3,))
        async with opened(tmp_path):
            await until(lambda: len(receiver.calls) == 2)
            # Closed while the attempt is under way.
        await until(lambda: receiver.at_once == 0)
        assert rows(tmp_path)[0]["state"] == "pending"
        async with opened(tmp_path) as office:
            delivery = await office.ended(webhook)
    assert (delivery.state, delivery.attempts, delivery.id) == ("delivered", 3, webhook.id)
    assert [call.headers["x-hopx-attempt"] for call in receiver.calls] == ["1", "2", "3"]
    assert {call.headers["idempotency-key"] for call in receiver.calls} == {webhook.id}
    assert {call.body for call in receiver.calls} == {b"[1]"}
    assert {call.headers["x-mine"] for call in receiver.calls} == {"1"}
    assert all(call.headers["x-hopx-signature"] for call in receiver.calls)


SERVER = """
import asyncio, sys
from pathlib import Path
from tests.webhooks.receivers import opened

async def main():
    async with opened(Path(sys.argv[1])) as office:
        webhook = await office.post(sys.argv[2], b"[2]", secret="s")
        print(webhook.id, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_a_server_that_is_killed_has_lost_nothing(tmp_path: Path) -> None:
    async with Receiver(hang, answer(200)).listening() as receiver:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SERVER,
            str(tmp_path),
            receiver.url,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            assert process.stdout is not None
            webhook_id = (await process.stdout.readline()).decode().strip()
            await until(lambda: len(receiver.calls) == 1)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with opened(tmp_path) as office:
            delivery = await office.ended(Webhook("job_0", "", {}, None))
    assert (delivery.state, delivery.attempts, delivery.id) == ("delivered", 2, webhook_id)
    assert [call.headers["x-hopx-attempt"] for call in receiver.calls] == ["1", "2"]
    assert {call.headers["idempotency-key"] for call in receiver.calls} == {webhook_id}
    assert {call.body for call in receiver.calls} == {b"[2]"}


async def test_what_expired_while_nobody_served_has_one_more_attempt(tmp_path: Path) -> None:
    async with Receiver(hang, answer(503)).listening() as receiver:
        async with opened(tmp_path, retry_time=0.2) as office:
            webhook = await office.post(receiver.url)
            await until(lambda: len(receiver.calls) == 1)
        await asyncio.sleep(0.3)
        async with opened(tmp_path) as office:
            delivery = await office.ended(webhook)
    assert (delivery.state, delivery.attempts, len(receiver.calls)) == ("failed", 2, 2)


async def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path) -> None:
    slow = Backoff(first=600)
    async with (
        opened(tmp_path, backoff=slow) as office,
        Receiver(answer(503), answer(200)).listening() as receiver,
    ):
        webhook = await office.post(receiver.url)
        await until(lambda: len(receiver.calls) == 1)
        while (await office.look(webhook)).last_status is None:
            await asyncio.sleep(0.01)

        # As it looks after the clock was set back by a day.
        def move(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE webhooks SET due_at = due_at + 86400")

        await office.database.run(move)
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
        await until(lambda: len(receiver.calls) == 1)
        while (await office.look(webhook)).last_status is None:
            await asyncio.sleep(0.01)

        def move(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE webhooks SET due_at = due_at - 86400")

        # Nobody wakes it.
        await office.database.run(move)
        assert (await office.ended(webhook)).state == "delivered"


async def test_a_receiver_that_hangs_does_not_delay_others(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, timeout=30) as office,
        Receiver(hang).listening() as dead,
        Receiver().listening() as receiver,
    ):
        # Other spellings of the host are the same receiver.
        for number in range(30):
            scheme = "HTTP" if number % 2 else "http"
            await office.post(f"{scheme}://127.0.0.1:{dead.port}/{number}")
        await until(lambda: len(dead.calls) == 4)
        begun = time.monotonic()
        url = receiver.url.replace("http", "HTTP")
        assert (await office.ended(await office.post(url))).state == "delivered"
        assert time.monotonic() - begun < 10
        assert (dead.most_at_once, len(dead.calls)) == (4, 4)


async def test_a_bounded_number_is_sent_at_once_and_in_order(tmp_path: Path) -> None:
    seen: list[int] = []
    under_way = most = 0

    async def slow(*_: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
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


@pytest.mark.parametrize("replies", [(answer(503), answer(200)), (answer(503), answer(400))])
async def test_a_pending_webhook_outlives_its_job(tmp_path: Path, replies: tuple[object]) -> None:
    async with (
        opened(tmp_path, backoff=Backoff(first=0.4)) as office,
        Receiver(*replies).listening() as receiver,  # type: ignore[arg-type]
    ):
        webhook = await office.post(receiver.url)
        await until(lambda: len(receiver.calls) == 1)
        remove = office.outbox.remove
        await office.database.run(lambda connection: remove(connection, webhook.job_id))
        found = await office.database.run(
            lambda connection: office.outbox.deliveries(connection, [webhook.job_id])
        )
        assert found == {}
        assert len(rows(tmp_path)) == 1
        await until(lambda: len(receiver.calls) == 2)
        await until(lambda: rows(tmp_path) == [])
    assert {call.headers["idempotency-key"] for call in receiver.calls} == {webhook.id}


async def test_a_webhook_that_is_over_goes_with_its_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        webhook = await office.post(receiver.url)
        await office.ended(webhook)
        waiting = Webhook("waits", receiver.url, {}, None)

        def remove(connection: sqlite3.Connection) -> None:
            office.outbox.register(connection, waiting)
            for job in (webhook.job_id, "waits", "unknown"):
                office.outbox.remove(connection, job)

        await office.database.run(remove)
        assert rows(tmp_path) == []


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


async def test_a_state_that_cannot_be_written_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kernelagent.webhooks.outbox._FAULT_PAUSE", 0.1)
    async with opened(tmp_path) as office, Receiver().listening() as receiver:

        def break_it(connection: sqlite3.Connection) -> None:
            connection.execute(
                "CREATE TRIGGER full BEFORE UPDATE OF ended_at ON webhooks"
                " BEGIN SELECT raise(FAIL, 'disk full'); END"
            )

        await office.database.run(break_it)
        webhook = await office.post(receiver.url)
        await until(lambda: "could not be written" in caplog.text)
        office.outbox.wake()
        await asyncio.sleep(0.2)
        await office.database.run(lambda connection: connection.execute("DROP TRIGGER full"))
        assert (await office.ended(webhook)).attempts == 1
    assert len(receiver.calls) == 1


async def test_a_queue_that_cannot_be_read_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kernelagent.webhooks.outbox._FAULT_PAUSE", 0.1)
    async with opened(tmp_path) as office, Receiver().listening() as receiver:

        def break_it(connection: sqlite3.Connection) -> None:
            connection.execute(
                "CREATE TRIGGER full BEFORE UPDATE OF attempts ON webhooks"
                " BEGIN SELECT raise(FAIL, 'disk full'); END"
            )

        await office.database.run(break_it)
        webhook = await office.post(receiver.url)
        await until(lambda: "could not be read" in caplog.text)
        assert receiver.connections == 0
        await office.database.run(lambda connection: connection.execute("DROP TRIGGER full"))
        assert (await office.ended(webhook)).state == "delivered"


async def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with Receiver(hang).listening() as dead:
        async with opened(tmp_path, timeout=60) as office:
            for _ in range(4):
                await office.post(dead.url)
            await until(lambda: len(dead.calls) == 4)
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
        await until(lambda: dead.at_once == 0)
        assert asyncio.all_tasks() == before
        assert {row["state"] for row in rows(tmp_path)} == {"pending"}


async def test_closing_writes_down_what_was_delivered(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        await blocking.wait()
        await answer(200)(call, writer)
        answered.set()

    blocking = asyncio.Event()
    async with opened(tmp_path) as office, Receiver(reply).listening() as receiver:
        await office.post(receiver.url)
        await until(lambda: len(receiver.calls) == 1)
        # The answer has to wait for the database, and closing for the answer.
        busy = asyncio.create_task(office.database.run(lambda _: time.sleep(0.5)))
        await asyncio.sleep(0.05)
        blocking.set()
        await answered.wait()
        await asyncio.sleep(0.1)
        await office.outbox.close()
        assert rows(tmp_path)[0]["state"] == "delivered"
        await busy


async def test_an_outbox_that_was_not_opened_can_be_closed(tmp_path: Path) -> None:
    outbox = Outbox(Database(tmp_path), load_settings())
    outbox.wake()
    await outbox.close()
    await outbox.close()


async def test_logs_and_representations_hold_no_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = Receiver(answer(503), answer(400))
    async with opened(tmp_path) as office, replies.listening() as receiver:
        webhook = await post_private(office, receiver.url + "/path-token?query-token")
        delivery = await office.ended(webhook)
    assert webhook.id in caplog.text
    assert f"http://127.0.0.1:{receiver.port}" in caplog.text
    written = caplog.text + repr(webhook) + repr(delivery) + delivery.last_error
    for private in (*PRIVATE, "path-token", "query-token"):
        assert private not in written
