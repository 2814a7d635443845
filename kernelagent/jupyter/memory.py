"""Memory limits of kernels, and whether memory was why a kernel was killed."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import psutil

from kernelagent.processes.cgroup import MemoryGroup, MemoryUse
from kernelagent.processes.usage import resident_memory, tree_memory

log = logging.getLogger(__name__)

_INTERVAL = 0.1
_SHARE = 0.75

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def default_limit() -> int:
    """Three quarters of the memory that this machine or container has."""
    total = psutil.virtual_memory().total
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):
            continue
    return int(total * _SHARE)


class KernelMemory:
    """What one kernel and its children may use, in bytes, and who sees to it.

    A memory group of the system is exact and at once, but ends only one process and knows nothing
    of pages that were there before; so the memory is watched as well. `close` is owed.
    """

    def __init__(self, limit: int, group: MemoryGroup | None = None) -> None:
        self.limit = limit
        self.group = group
        self._kills_of_system = oom_kills()
        self._kills_told = 0

    @property
    def join_file(self) -> Path | None:
        """Where a process that is forked joins the group by itself, if it can."""
        return None if self.group is None else self.group.join_file

    async def admit(self, pid: int) -> None:
        """Put a process into the group that has not joined by itself; it runs on meanwhile."""
        if self.group is None:
            return
        try:
            await asyncio.to_thread(self.group.add, pid)
        except OSError as error:
            # It has ended, which others notice; or the group is of no use, and it is watched.
            log.warning("a kernel's memory is only watched: %s", error)

    async def watch(self, pid: int) -> MemoryUse:
        """Wait until `pid` and its descendants use more than the limit.

        Resident memory is cheap to read but counts shared pages twice; only when it is over the
        limit is the exact number taken. Where there is a group, it must be so twice in a row: the
        group may be about to end a child, after which the kernel can go on.
        """
        wanted, seen = 1 if self.group is None else 2, 0
        while True:
            used = await asyncio.to_thread(resident_memory, pid)
            if used > self.limit:
                used = await asyncio.to_thread(tree_memory, pid)
            seen = seen + 1 if used > self.limit else 0
            if seen == wanted:
                return MemoryUse(used, self.limit)
            await asyncio.sleep(_INTERVAL)

    def group_excess(self) -> MemoryUse | None:
        """What was used when the group's limit cost a process its life; each is told once."""
        if self.group is None:
            return None
        try:
            kills = self.group.oom_kills()
            if kills <= self._kills_told:
                return None
            self._kills_told = kills
            return self.group.use()
        except OSError as error:
            log.warning("a memory group cannot be read: %s", error)
            return None

    def killed_by_system(self) -> bool:
        """Whether the system may have killed the kernel: it has killed something since the start.

        A group counts its own, whatever the cause: there, kills elsewhere say nothing.
        """
        return self.group is None and oom_kills() > self._kills_of_system

    async def close(self) -> None:
        """Remove the group, when its processes have ended."""
        if self.group is not None:
            try:
                await asyncio.to_thread(self.group.remove)
            except OSError as error:
                log.warning("a memory group is left: %s", error)


def oom_kills() -> int:
    """Processes that the system has killed for want of memory since it started."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
