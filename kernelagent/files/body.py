"""A request's body as it comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from starlette.requests import ClientDisconnect

from kernelagent.web.middleware import LINGER

if TYPE_CHECKING:
    from starlette.types import Receive


class Body:
    """The pieces of a body; a context manager for those who may not read all of it.

    When it is left with an error, what still comes is read on for a while: a socket that is closed
    while its client sends is reset, and the client never sees the answer.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._more:
            try:
                message = await self._receive()
            except Exception:
                # Whoever refused the rest reads on by themselves.
                self._more = False
                raise
            if message["type"] == "http.disconnect":
                self._more = False
                raise ClientDisconnect
            self._more = message.get("more_body", False)
            yield message.get("body", b"")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, Exception):
            return
        # Whatever comes now, the error is what is told.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LINGER):
                async for _piece in self:
                    pass
