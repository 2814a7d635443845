"""Processes and what they have open, for tests that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import psutil

from tests.waiting import PATIENCE


def descriptors(pid: int | str = "self", *, collect: bool = True) -> int:
    """How many descriptors a process has, without those that wait for the collector here."""
    if collect:
        gc.collect()
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def warm_threads() -> None:
    """Let the loop's thread pool grow to its full size, which it keeps."""
    size = min(32, (os.cpu_count() or 1) + 4)
    barrier = threading.Barrier(size)
    await asyncio.gather(*(asyncio.to_thread(barrier.wait, PATIENCE) for _ in range(size)))


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
