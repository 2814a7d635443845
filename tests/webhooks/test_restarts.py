"""Webhooks outlive servers, however those end."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from kernelagent.database import FILE, Database
from kernelagent.settings import load_settings
from kernelagent.webhooks.backoff import Backoff
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.webhook import Webhook
from tests.waiting import PATIENCE, until
from tests.webhooks.receivers import Call, Receiver, answer, hang, opened, rows


async def test_what_is_pending_goes_on_after_a_restart(tmp_path: Path) -> None:
    slow = Backoff(first=600)
    async with Receiver(answer(503), hang, answer(200)).listening() as receiver:
        async with opened(tmp_path, backoff=slow) as office:
            webhook = await office.post(receiver.url, b"[1]", {"X-Mine": "1"}, "s")
            await office.attempted(webhook)
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
        async with opened(tmp_path) as office:
            webhook = await office.post(receiver.url)
            await until(lambda: len(receiver.calls) == 1)
            await office.change("UPDATE webhooks SET give_up_at = created_at")
        async with opened(tmp_path) as office:
            delivery = await office.ended(webhook)
    assert (delivery.state, delivery.attempts, len(receiver.calls)) == ("failed", 2, 2)


async def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with Receiver(hang).listening() as dead:
        async with asyncio.timeout(PATIENCE), opened(tmp_path, timeout=10 * PATIENCE) as office:
            for _ in range(4):
                await office.post(dead.url)
            await until(lambda: len(dead.calls) == 4)
        await until(lambda: dead.at_once == 0)
        assert asyncio.all_tasks() == before
        assert {row["state"] for row in rows(tmp_path)} == {"pending"}


async def test_closing_writes_down_what_was_delivered(tmp_path: Path) -> None:
    answered = asyncio.Event()
    may_answer = asyncio.Event()
    database_is_busy, may_go_on = threading.Event(), threading.Event()

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        await answer(200)(call, writer)
        answered.set()

    def work(_: sqlite3.Connection) -> None:
        database_is_busy.set()
        assert may_go_on.wait(PATIENCE)

    async with opened(tmp_path) as office, Receiver(reply).listening() as receiver:
        await office.post(receiver.url)
        await until(lambda: len(receiver.calls) == 1)
        # The answer has to wait for the database, and closing for the answer.
        busy = asyncio.create_task(office.database.run(work))
        await until(database_is_busy.is_set)
        may_answer.set()
        await answered.wait()
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(office.outbox.close())
        await asyncio.sleep(0.1)
        assert not closing.done()
        may_go_on.set()
        await closing
        assert rows(tmp_path)[0]["state"] == "delivered"
        await busy


async def test_an_outbox_that_was_not_opened_can_be_closed(tmp_path: Path) -> None:
    outbox = Outbox(Database(tmp_path), load_settings())
    outbox.wake()
    await outbox.close()
    await outbox.close()
