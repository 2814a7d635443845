"""Memory limits of kernels, and whether memory was why a kernel was killed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import psutil

from kernelagent.process import resident_memory, tree_memory

_INTERVAL = 0.1
_SHARE = 0.75

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class MemoryExcess:
    """A kernel used more than it may; both in bytes."""

    used: int
    limit: int


def default_limit() -> int:
    """Three quarters of the memory that this machine or container has."""
    total = psutil.virtual_memory().total
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):
            continue
    return int(total * _SHARE)


async def watch_memory(pid: int, limit: int) -> MemoryExcess:
    """Wait until `pid` and its descendants use more than `limit` bytes.

    Resident memory is cheap to read but counts shared pages twice; only when it is over the limit
    is the exact number taken.
    """
    while True:
        if await asyncio.to_thread(resident_memory, pid) > limit:
            used = await asyncio.to_thread(tree_memory, pid)
            if used > limit:
                return MemoryExcess(used, limit)
        await asyncio.sleep(_INTERVAL)


def oom_kills() -> int:
    """Processes that the system has killed for want of memory since it started."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
