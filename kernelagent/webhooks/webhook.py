"""A webhook as it is asked for, and what has become of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

WAITING = "waiting"
PENDING = "pending"
DELIVERED = "delivered"
FAILED = "failed"


def make_id() -> str:
    """A new webhook's id."""
    return f"hook_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """The callback of one job: where its result goes, with which headers, signed with what."""

    job_id: str
    # Not in the repr, which may get into a log.
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secret: str | None = field(repr=False)
    id: str = field(default_factory=make_id)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far a webhook is: "waiting" for its job, "pending", "delivered" or "failed" for good.

    `attempts` counts those that have begun; `last_status` is the answer to the last one, if there
    was one, and `last_error` the reason why it was no success. Times are Unix seconds.
    """

    url: str = field(repr=False)
    state: str
    attempts: int
    last_status: int | None
    last_error: str
    due_at: float | None
    ended_at: float | None
    id: str
