"""What is stored of a webhook, how long, and what is erased."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

import pytest

from kernelagent.webhooks.backoff import Backoff
from kernelagent.webhooks.webhook import Webhook
from tests.waiting import until
from tests.webhooks.receivers import Office, Receiver, answer, opened, rows

PRIVATE = ("sesame-secret", "header-value", "body-of-the-result")


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


@pytest.mark.parametrize("replies", [(answer(503), answer(200)), (answer(503), answer(400))])
async def test_a_pending_webhook_outlives_its_job(tmp_path: Path, replies: tuple[object]) -> None:
    async with (
        opened(tmp_path, backoff=Backoff(first=600)) as office,
        Receiver(*replies).listening() as receiver,  # type: ignore[arg-type]
    ):
        webhook = await office.post(receiver.url)
        await office.attempted(webhook)
        remove = office.outbox.remove
        await office.database.run(lambda connection: remove(connection, webhook.job_id))
        found = await office.database.run(
            lambda connection: office.outbox.deliveries(connection, [webhook.job_id])
        )
        assert found == {}
        assert len(rows(tmp_path)) == 1
        await office.change("UPDATE webhooks SET due_at = 0")
        office.outbox.wake()
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


async def test_a_state_that_cannot_be_written_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kernelagent.webhooks.outbox._FAULT_PAUSE", 0.1)
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        await office.change(
            "CREATE TRIGGER full BEFORE UPDATE OF ended_at ON webhooks"
            " BEGIN SELECT raise(FAIL, 'disk full'); END"
        )
        webhook = await office.post(receiver.url)
        await until(lambda: "could not be written" in caplog.text)
        office.outbox.wake()
        await asyncio.sleep(0.2)
        await office.change("DROP TRIGGER full")
        assert (await office.ended(webhook)).attempts == 1
    assert len(receiver.calls) == 1


async def test_a_queue_that_cannot_be_read_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kernelagent.webhooks.outbox._FAULT_PAUSE", 0.1)
    async with opened(tmp_path) as office, Receiver().listening() as receiver:
        await office.change(
            "CREATE TRIGGER full BEFORE UPDATE OF attempts ON webhooks"
            " BEGIN SELECT raise(FAIL, 'disk full'); END"
        )
        webhook = await office.post(receiver.url)
        await until(lambda: "could not be read" in caplog.text)
        assert receiver.connections == 0
        await office.change("DROP TRIGGER full")
        assert (await office.ended(webhook)).state == "delivered"


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
