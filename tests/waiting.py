"""How tests wait: for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

# What takes a moment takes this long on a machine with much else to do.
PATIENCE = 60.0
_PAUSE = 0.01


async def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what `condition` returns once that is true; fail if it is not within `seconds`.

    What it returns may have to be awaited.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not true within {seconds:g} s: {_name(condition)}"
        await asyncio.sleep(_PAUSE)


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
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
