"""What waits for a session's kernel: runs, and turns for what must not overlap a run."""

from __future__ import annotations

import asyncio
from collections import deque

from kernelagent.errors import QueueFull, QueueTimeout, SessionClosed
from kernelagent.sessions.execution import Execution


class Turn:
    """A place in the queue for work that must not overlap a run (a branch, a checkpoint).

    The session stands still from `granted` until `end`; `fail` if its turn does not come.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.granted: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()

    async def hold(self) -> None:
        """The turn has come; returns when it is over. The session's side."""
        if self.granted.cancelled():
            return
        self.granted.set_result(None)
        await asyncio.wait([self._ended])

    def end(self) -> None:
        """The session may go on."""
        if not self._ended.done():
            self._ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """The turn will not come, for `error`."""
        if not self.granted.done():
            self.granted.set_exception(error)
            # Whoever waited may have gone.
            self.granted.exception()


class Queue:
    """The runs and turns that wait in one session: in order, `limit` at most."""

    def __init__(self, session_id: str, limit: int) -> None:
        self._session_id = session_id
        self._limit = limit
        self._items: deque[Execution | Turn] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Execution | Turn) -> None:
        """Put `item` at the end; raises QueueFull, SessionClosed."""
        if self._closed:
            raise SessionClosed(f"session {self._session_id} was closed")
        if len(self._items) >= self._limit:
            raise QueueFull(
                f"{self._limit} runs wait in session {self._session_id}, as many as the settings "
                "allow; the code was not run",
                details={"position": len(self._items) + 1, "limit": self._limit},
            )
        self._items.append(item)
        self._wake.set()

    def remove(self, item: Execution | Turn) -> bool:
        """Take `item` out; whether it was waiting."""
        if item not in self._items:
            return False
        self._items.remove(item)
        return True

    def waiting(self) -> list[Execution | Turn]:
        """Return what waits, in order."""
        return list(self._items)

    def expire(self, execution: Execution, waited: float) -> None:
        """Fail a run whose turn has not come within `waited` seconds."""
        if self.remove(execution):
            execution.fail(
                QueueTimeout(
                    f"the run's turn in session {self._session_id} did not come within "
                    f"{waited:g} s; the code was not run",
                    details={"queue_timeout": waited},
                )
            )

    def close(self) -> None:
        """Take nothing more; what waits stays."""
        self._closed = True

    async def next(self) -> Execution | Turn:
        """Take the first item, as soon as there is one."""
        while not self._items:
            self._wake.clear()
            await self._wake.wait()
        return self._items.popleft()
