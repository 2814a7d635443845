"""The durable queue of webhooks, and the loop that sends what is due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sqlite3
import ssl
import time
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import httpcore

from kernelagent.database import Database
from kernelagent.settings import Settings
from kernelagent.webhooks import ledger
from kernelagent.webhooks.addresses import Guard
from kernelagent.webhooks.backoff import Backoff
from kernelagent.webhooks.headers import check_headers
from kernelagent.webhooks.resolver import GetAddrInfo, Resolver
from kernelagent.webhooks.sender import Outcome, Parcel, Sender
from kernelagent.webhooks.target import Target, read_origin
from kernelagent.webhooks.webhook import DELIVERED, FAILED, Delivery, Webhook

log = logging.getLogger(__name__)

T = TypeVar("T")

_AT_ONCE = 16
_AT_ONCE_PER_ORIGIN = 4
# Beyond this, the oldest are given up: with dead receivers they would fill the disk.
_MOST_PENDING = 10_000
# The clock may be set, and a caller may be cancelled before it has said `wake`.
_LONGEST_SLEEP = 10.0
_FAULT_PAUSE = 5.0


class Outbox:
    """Delivers the results of jobs. `open` first, `close` in any case, before the database.

    Raises ConfigurationError if the hosts and networks to allow cannot be read. `register`,
    `release`, `deliveries` and `remove` are called within `Database.run`, `wake` when that has
    returned. Everything else runs on the event loop.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        backoff: Backoff | None = None,
        tls: ssl.SSLContext | None = None,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
        most_pending: int = _MOST_PENDING,
    ) -> None:
        self._database = database
        self._timeout = settings.webhook_timeout
        self._retry_time = settings.webhook_retry_time
        self._guard = Guard(settings.webhook_allow)
        self._resolver = Resolver(getaddrinfo)
        self._backoff = backoff or Backoff()
        self._tls = tls
        self._most_pending = most_pending
        self._sender: Sender | None = None
        self._woken = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._attempts: dict[str, asyncio.Task[None]] = {}
        # The ids of those attempts, and where they go.
        self._flying: dict[str, str] = {}

    async def open(self) -> None:
        """Begin to send, also what an earlier process has left."""
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop sending; what is under way stays pending. May be repeated."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
            self._loop = None
        for task in self._attempts.values():
            task.cancel()
        if self._attempts:
            await asyncio.wait(list(self._attempts.values()))

    def check(self, url: str, headers: Mapping[str, str]) -> None:
        """Raises WebhookRefused if nothing can be sent to `url` or with `headers`."""
        self._guard.check_url(Target.parse(url))
        check_headers(headers)

    def register(self, connection: sqlite3.Connection, webhook: Webhook) -> None:
        """Keep the webhook of a job that begins."""
        ledger.insert(connection, webhook, time.time())

    def release(self, connection: sqlite3.Connection, job_id: str, body: bytes) -> bool:
        """The job has ended: send `body` as it is. False if the job has no webhook that waits."""
        now = time.time()
        if not ledger.release(connection, job_id, body, now, now + self._retry_time):
            return False
        for webhook_id in ledger.drop_excess(connection, self._most_pending, now):
            log.warning("webhook %s was given up: too many wait", webhook_id)
        return True

    def deliveries(
        self, connection: sqlite3.Connection, job_ids: Iterable[str]
    ) -> dict[str, Delivery]:
        """By job: how far the webhooks of those are that have one."""
        return ledger.read(connection, job_ids)

    def remove(self, connection: sqlite3.Connection, job_id: str) -> None:
        """The job is deleted; what is pending is delivered all the same, and then deleted too."""
        ledger.remove(connection, job_id)

    def wake(self) -> None:
        """Look for what is due."""
        self._woken.set()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                pause = await self._begin_due()
            except Exception:
                log.exception("the webhooks that are due could not be read")
                await asyncio.sleep(_FAULT_PAUSE)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _begin_due(self) -> float:
        """Begin as many attempts as may be under way; seconds until there may be more to do."""
        if len(self._flying) >= _AT_ONCE:
            return _LONGEST_SLEEP
        now = time.time()
        parcels, next_due = await self._database.run(
            partial(
                ledger.claim,
                now=now,
                longest_pause=self._backoff.limit,
                flying=dict(self._flying),
                at_once=_AT_ONCE,
                at_once_per_origin=_AT_ONCE_PER_ORIGIN,
            )
        )
        for parcel in parcels:
            sender = self._sender or await self._make_sender()
            self._flying[parcel.id] = read_origin(parcel.url)
            task = asyncio.create_task(self._deliver(sender, parcel))
            self._attempts[parcel.id] = task
            task.add_done_callback(partial(self._forget, parcel.id))
        if next_due is None:
            return _LONGEST_SLEEP
        return min(max(next_due - time.time(), 0.0), _LONGEST_SLEEP)

    async def _make_sender(self) -> Sender:
        """Not when the service starts: all certificates are read for it."""
        tls = self._tls
        if tls is None:
            tls = await asyncio.to_thread(httpcore.default_ssl_context)
        self._sender = Sender(self._guard, self._resolver, self._timeout, tls)
        return self._sender

    def _forget(self, webhook_id: str, task: asyncio.Task[None]) -> None:
        del self._attempts[webhook_id]
        del self._flying[webhook_id]
        self._woken.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("an attempt could not be made", exc_info=task.exception())

    async def _deliver(self, sender: Sender, parcel: Parcel) -> None:
        outcome = await sender.send(parcel)
        pause = self._backoff.choose(parcel.attempt, outcome.pause)
        while True:
            try:
                state = await _complete(
                    self._database.run(
                        partial(self._settle, webhook_id=parcel.id, outcome=outcome, pause=pause)
                    )
                )
                break
            except Exception:
                # It is not sent again before it is written down that it was sent.
                log.exception("the state of webhook %s could not be written", parcel.id)
                await asyncio.sleep(_FAULT_PAUSE)
        _report(parcel, outcome, state)

    def _settle(
        self, connection: sqlite3.Connection, *, webhook_id: str, outcome: Outcome, pause: float
    ) -> str | None:
        return ledger.settle(connection, webhook_id, outcome, time.time(), pause)


async def _complete(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is finished even if the caller is cancelled meanwhile."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # What was delivered would otherwise be delivered again after a restart.
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            log.warning("the state of a webhook could not be written", exc_info=task.exception())
        raise


def _report(parcel: Parcel, outcome: Outcome, state: str | None) -> None:
    """Neither the path nor the query: they may be secrets of the receiver."""
    origin = read_origin(parcel.url)
    if state is None:
        log.info("webhook %s was given up during attempt %d", parcel.id, parcel.attempt)
    elif state == DELIVERED:
        log.info("webhook %s was delivered to %s, attempt %d", parcel.id, origin, parcel.attempt)
    elif state == FAILED:
        log.warning(
            "webhook %s to %s failed for good, attempt %d: %s",
            parcel.id,
            origin,
            parcel.attempt,
            outcome.error,
        )
    else:
        log.info(
            "webhook %s to %s failed, attempt %d: %s",
            parcel.id,
            origin,
            parcel.attempt,
            outcome.error,
        )
