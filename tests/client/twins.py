"""The synchronous client behind the methods of the asynchronous one, to test both alike."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Self

from kernelagent.client import Client, Message


class Awaited:
    """Calls the methods of a synchronous client in threads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = Client(*arguments, **options)

    async def __aenter__(self) -> Self:
        self._client.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._client.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if inspect.isgeneratorfunction(method):
            return functools.partial(_iterate, method)
        return functools.partial(asyncio.to_thread, method)


async def _iterate(
    method: Callable[..., Generator[Message, None, None]], *arguments: Any, **options: Any
) -> AsyncGenerator[Message, None]:
    messages = method(*arguments, **options)
    try:
        while (message := await asyncio.to_thread(next, messages, None)) is not None:
            yield message
    finally:
        messages.close()
