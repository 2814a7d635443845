"""Processes and what they have open, for tests that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Iterator
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


def processes_in(folder: Path) -> set[int]:
    """The processes whose working directory is `folder` or below it.

    Not by its name: in a chroot the system tells another one of processes that have a file system
    of their own.
    """
    try:
        place = folder.stat()
    except FileNotFoundError:
        return set()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # It may have ended meanwhile.
            with contextlib.suppress(OSError):
                if any(os.path.samestat(place, above) for above in _upwards(entry / "cwd")):
                    found.add(int(entry.name))
    return found


def _upwards(directory: Path) -> Iterator[os.stat_result]:
    """A directory, and those above it."""
    path, here = str(directory), directory.stat()
    while True:
        yield here
        path += "/.."
        above = os.stat(path)  # noqa: PTH116 - the link is to be followed before `..`
        if os.path.samestat(above, here):
            return
        here = above


def family(folder: Path) -> set[int]:
    """The children of this process, and whatever works in `folder` or below it.

    Not all descendants: those of servers that other tests share come and go.
    """
    return {child.pid for child in psutil.Process().children()} | processes_in(folder)
