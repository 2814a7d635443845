"""The threads in which files are used: bounded, and with the rights of the files' owner."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kernelagent.errors import FileLimit

T = TypeVar("T")

QUICK_THREADS = 8
LONG_THREADS = 4
# The number of setgroups; glibc's own function would change all threads.
_SETGROUPS = {"x86_64": 116, "aarch64": 159}


class FileThreads:
    """Runs what blocks on a disk; at most `limit` operations at once, FileLimit beyond.

    With an `owner` (uid, gid) everything in here is done with the rights of that user, and what is
    made belongs to it: the service may be root, and what it does for a client is not.
    """

    def __init__(self, owner: tuple[int, int] | None, limit: int) -> None:
        self.owner = owner
        self._limit = limit
        self._operations = 0
        self._begun = False
        self._quick = ThreadPoolExecutor(QUICK_THREADS, "files", self._begin)
        self._long = ThreadPoolExecutor(LONG_THREADS, "files-long", self._begin)

    def _begin(self) -> None:
        self._begun = True
        act_as(self.owner)

    @contextlib.contextmanager
    def operation(self) -> Iterator[None]:
        """One operation of a client, of as many steps as it takes; raises FileLimit."""
        if self._operations >= self._limit:
            raise FileLimit(
                f"{self._limit} operations on files are on their way, as many as the settings "
                "allow; nothing was done",
                details={"limit": self._limit},
            )
        self._operations += 1
        try:
            yield
        finally:
            self._operations -= 1

    async def run(self, work: Callable[[], T], *, long: bool = False) -> T:
        """What `work` returns; `long` work does not keep short work waiting."""
        pool = self._long if long else self._quick
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def close(self) -> None:
        """Wait until everything is done; may be repeated."""
        await asyncio.to_thread(self._quick.shutdown)
        await asyncio.to_thread(self._long.shutdown)


def act_as(owner: tuple[int, int] | None) -> None:
    """Give this thread, and no other, the owner's rights to files."""
    if owner is None or os.geteuid() != 0:
        return
    if threading.current_thread() is threading.main_thread():
        raise RuntimeError("the service itself keeps its rights")
    uid, gid = owner
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SETGROUPS.get(platform.machine())
    if number is not None and libc.syscall(number, 0, None) != 0:
        raise OSError(ctypes.get_errno(), "setgroups")
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    # These two tell of no failure; a second call says what holds.
    if libc.setfsgid(-1) != gid or libc.setfsuid(-1) != uid:
        raise PermissionError("the rights of the files' owner cannot be taken")
