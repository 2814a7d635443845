"""What keeps a kernel from being copied as a whole."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from kernelagent_python.forking import settle_native_threads
from kernelagent_python.lean.iothread import NAME

# The main one, ours, and ZeroMQ's two.
_OUR_THREADS = 4


def obstacle(app: Any) -> str | None:
    """Why a copy of this process would lack something that runs in it; None if it would not."""
    threads = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and thread.name != NAME
    ]
    if threads:
        return (
            f"the code has {_count(len(threads), 'thread')} running ({_names(threads)}), which a "
            "branch would not have"
        )
    tasks = [task.get_name() for task in asyncio.all_tasks(app.channels.loop)]
    if tasks:
        return (
            f"the code has {_count(len(tasks), 'asyncio task')} running ({_names(tasks)}), which "
            "would not go on in a branch"
        )
    native = _native_threads() - _OUR_THREADS
    if native > 0:
        settle_native_threads()
        native = _native_threads() - _OUR_THREADS
    if native > 0:
        return (
            f"a library runs {_count(native, 'thread')} of its own, which a branch would not have"
        )
    return None


def _native_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
