"""How tests wait: for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

# What takes a moment takes this long on a machine with much else to do.
PATIENCE = 60.0
_PAUSE = 0.01

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T] | T], seconds: float = PATIENCE) -> T:
    """Return what `condition` returns once that is true; fail if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer: Any = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, f"not true within {seconds:g} s: {_name(condition)}"
        await asyncio.sleep(_PAUSE)


def wait_until(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """`until` where there is no event loop."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds:g} s: {_name(condition)}"
        time.sleep(_PAUSE)
    return answer


def _name(condition: Callable[[], Any]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
