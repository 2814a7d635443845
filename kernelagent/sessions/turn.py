"""A place in a session's queue for what is no run but must not meet one."""

from __future__ import annotations

import asyncio


class Turn:
    """The session stands still from `granted` until `end`; `fail` if its turn does not come."""

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
