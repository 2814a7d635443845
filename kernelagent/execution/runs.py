"""What the three ways to run code for one answer share: plain, from the cache, repeated by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kernelagent.concurrency import Disconnected
from kernelagent.execution.models import ExecuteRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of an answer, and whether it is that of an earlier request."""

    body: bytes
    repeated: bool = False


class Runs(Protocol):
    """A way to run code for one answer."""

    async def answer(
        self, request: ExecuteRequest, disconnected: Disconnected, *, rich: bool
    ) -> Answer | None:
        """Run `request`; None if the caller left, for which `disconnected` waits.

        `rich` tells whether every output is in the answer. Raises what is wrong with the request.
        """
