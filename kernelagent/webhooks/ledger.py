"""Webhooks in the database. All of this runs on the database's thread, in its transactions."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping

from kernelagent.webhooks.sender import Outcome, Parcel
from kernelagent.webhooks.target import read_origin
from kernelagent.webhooks.webhook import DELIVERED, FAILED, PENDING, WAITING, Delivery, Webhook

# A pending webhook whose job was removed belongs to this and its own id.
_REMOVED = "removed:"


def insert(connection: sqlite3.Connection, webhook: Webhook, now: float) -> None:
    """A new webhook that waits for its job; a job has one at most."""
    connection.execute(
        "INSERT INTO webhooks (id, job_id, url, headers, secret, state, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            webhook.id,
            webhook.job_id,
            webhook.url,
            json.dumps(dict(webhook.headers)),
            webhook.secret,
            WAITING,
            now,
        ),
    )


def release(
    connection: sqlite3.Connection, job_id: str, body: bytes, now: float, give_up_at: float
) -> bool:
    """Let the job's webhook be sent; False if none waits."""
    changed = connection.execute(
        "UPDATE webhooks SET state = ?, body = ?, due_at = ?, give_up_at = ?"
        " WHERE job_id = ? AND state = ?",
        (PENDING, body, now, give_up_at, job_id, WAITING),
    )
    return changed.rowcount == 1


def drop_excess(connection: sqlite3.Connection, most: int, now: float) -> list[str]:
    """Fail the oldest webhooks beyond `most` pending ones; their ids."""
    (count,) = connection.execute(
        "SELECT count(*) FROM webhooks WHERE state = ?", (PENDING,)
    ).fetchone()
    if count <= most:
        return []
    oldest = connection.execute(
        "SELECT id FROM webhooks WHERE state = ? ORDER BY created_at, rowid LIMIT ?",
        (PENDING, count - most),
    ).fetchall()
    for row in oldest:
        _end(connection, row["id"], FAILED, Outcome(error=f"more than {most} webhooks wait"), now)
    return [row["id"] for row in oldest]


def claim(
    connection: sqlite3.Connection,
    *,
    now: float,
    longest_pause: float,
    flying: Mapping[str, str],
    at_once: int,
    at_once_per_origin: int,
) -> tuple[list[Parcel], float | None]:
    """Count the next attempts as begun; what to send, and when the next one is due.

    `flying` has the ids that are being sent and their origins.
    """
    # No pause is that long: the clock was set back.
    connection.execute(
        "UPDATE webhooks SET due_at = ? WHERE state = ? AND due_at > ?",
        (now, PENDING, now + longest_pause),
    )
    chosen: list[str] = []
    busy = Counter(flying.values())
    free = at_once - len(flying)
    # The columns before the body: SQLite reads the others by going through all of it.
    due = connection.execute(
        "SELECT id, url FROM webhooks WHERE state = ? AND due_at <= ? ORDER BY due_at, rowid",
        (PENDING, now),
    )
    for row in due:
        if len(chosen) >= free:
            break
        origin = read_origin(row["url"])
        if row["id"] not in flying and busy[origin] < at_once_per_origin:
            busy[origin] += 1
            chosen.append(row["id"])
    due.close()
    (next_due,) = connection.execute(
        "SELECT min(due_at) FROM webhooks WHERE state = ? AND due_at > ?", (PENDING, now)
    ).fetchone()
    return [_load(connection, webhook_id) for webhook_id in chosen], next_due


def _load(connection: sqlite3.Connection, webhook_id: str) -> Parcel:
    row = connection.execute(
        "UPDATE webhooks SET attempts = attempts + 1 WHERE id = ?"
        " RETURNING attempts, url, headers, secret, body",
        (webhook_id,),
    ).fetchone()
    return Parcel(
        id=webhook_id,
        attempt=row["attempts"],
        url=row["url"],
        headers=json.loads(row["headers"]),
        secret=row["secret"],
        body=row["body"],
    )


def settle(
    connection: sqlite3.Connection, webhook_id: str, outcome: Outcome, now: float, pause: float
) -> str | None:
    """Write down how an attempt ended; the new state, or None if it was ended otherwise."""
    row = connection.execute(
        "SELECT give_up_at FROM webhooks WHERE id = ? AND state = ?", (webhook_id, PENDING)
    ).fetchone()
    if row is None:
        return None
    if outcome.error and not outcome.final and now < row["give_up_at"]:
        connection.execute(
            "UPDATE webhooks SET due_at = ?, last_status = ?, last_error = ? WHERE id = ?",
            (min(now + pause, row["give_up_at"]), outcome.status, outcome.error, webhook_id),
        )
        return PENDING
    state = FAILED if outcome.error else DELIVERED
    _end(connection, webhook_id, state, outcome, now)
    return state


def _end(
    connection: sqlite3.Connection, webhook_id: str, state: str, outcome: Outcome, now: float
) -> None:
    """Keep what happened, erase what was sent; nothing is kept for a job that was removed."""
    connection.execute(
        "UPDATE webhooks SET state = ?, headers = '{}', secret = NULL, body = NULL, due_at = NULL,"
        " ended_at = ?, last_status = ?, last_error = ? WHERE id = ?",
        (state, now, outcome.status, outcome.error, webhook_id),
    )
    connection.execute(
        "DELETE FROM webhooks WHERE id = ? AND job_id = ?", (webhook_id, _REMOVED + webhook_id)
    )


def remove(connection: sqlite3.Connection, job_id: str) -> None:
    """Forget the job's webhook; one that is pending is only no longer the job's."""
    connection.execute(
        "UPDATE webhooks SET job_id = ? || id WHERE job_id = ? AND state = ?",
        (_REMOVED, job_id, PENDING),
    )
    connection.execute("DELETE FROM webhooks WHERE job_id = ?", (job_id,))


def read(connection: sqlite3.Connection, job_ids: Iterable[str]) -> dict[str, Delivery]:
    """The deliveries of those of the jobs that have one."""
    rows = connection.execute(
        "SELECT job_id, id, url, state, attempts, last_status, last_error, due_at, ended_at"
        " FROM webhooks WHERE job_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(job_ids)),),
    )
    return {
        row["job_id"]: Delivery(
            url=_without_userinfo(row["url"]),
            state=row["state"],
            attempts=row["attempts"],
            last_status=row["last_status"],
            last_error=row["last_error"],
            due_at=row["due_at"],
            ended_at=row["ended_at"],
            id=row["id"],
        )
        for row in rows
    }


def _without_userinfo(url: str) -> str:
    return re.sub(r"^([^/?#]*//)[^/?#]*@", r"\1", url)
