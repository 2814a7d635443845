"""Follows the log of a job over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from kernelagent.client import ServiceError, ServiceUnreachable

if TYPE_CHECKING:
    from kernelagent.client import AsyncClient, LogStream, Message

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class LogFollower:
    """Yields each message of a log once, in order, whatever becomes of the connections.

    A connection that breaks is made anew, from where the last message ended, until the service has
    not answered for `retry` seconds. `on_loss` hears of each loss, not of each attempt.
    """

    def __init__(
        self,
        client: AsyncClient,
        job_id: str,
        *,
        offset: int,
        stream: LogStream | None,
        follow: bool,
        retry: float,
        on_loss: Callable[[Exception], None],
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._offset = offset
        self._stream = stream
        self._follow = follow
        self._retry = retry
        self._on_loss = on_loss
        self._lost_at: float | None = None

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Pieces of the log and gaps; with `follow`, `end` last.

        Raises ServiceUnreachable if it cannot be read any more, ServiceError if it is refused.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                async with contextlib.aclosing(self._connection()) as connection:
                    async for message in connection:
                        pause = _FIRST_PAUSE
                        if message["type"] == "keepalive":
                            continue
                        self._offset = message["next_offset"]
                        # Gaps and the end belong to both.
                        if self._stream in (None, message.get("stream", self._stream)):
                            yield message
                return
            except (ServiceUnreachable, ServiceError) as error:
                if not _may_pass(error):
                    raise
                now = time.monotonic()
                if self._lost_at is None:
                    self._lost_at = now
                    self._on_loss(error)
                if now + pause - self._lost_at > self._retry:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _connection(self) -> AsyncGenerator[Message, None]:
        # Both streams are asked for, and one is chosen here: so the offset moves with either, and
        # a stream that says nothing for hours does not look like a dead connection.
        return self._client.job_log(
            self._job_id, offset=self._offset, follow=self._follow, on_open=self._opened
        )

    def _opened(self) -> None:
        self._lost_at = None


def _may_pass(error: ServiceUnreachable | ServiceError) -> bool:
    """Whether it may be well soon: nothing answers, or a gateway says that its server is away."""
    return isinstance(error, ServiceUnreachable) or error.status in (429, 502, 503, 504)
