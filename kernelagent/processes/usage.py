"""What processes use, as /proc has it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def tree_usage(pid: int) -> tuple[float, int]:
    """CPU seconds, those of children that have ended included, and bytes of resident memory.

    Of `pid` and its descendants; blocks on /proc, so it is called in a thread.
    """
    ticks = 0
    for member in tree(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_bytes()
        except OSError:
            continue
        # utime, stime, cutime, cstime; the name before them may hold anything.
        ticks += sum(map(int, stat.rpartition(b") ")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK"), resident_memory(pid)


def tree_memory(pid: int) -> int:
    """Bytes of memory that `pid` and its descendants use, shared pages counted once.

    Blocks on /proc, so it is called in a thread. 0 if the process has gone.
    """
    total = 0
    for member in tree(pid):
        try:
            with Path(f"/proc/{member}/smaps_rollup").open("rb") as rollup:
                for line in rollup:
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) * 1024
                        break
        except OSError:
            continue
    return total


def resident_memory(pid: int) -> int:
    """Bytes of resident memory of `pid` and its descendants; an upper bound of `tree_memory`."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for member in tree(pid):
        try:
            total += int(_read(f"/proc/{member}/statm").split()[1]) * page
        except (OSError, IndexError):
            continue
    return total


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    members = [pid]
    for member in members:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):  # noqa: PTH208 - see _read
                with contextlib.suppress(OSError):
                    children = _read(f"/proc/{member}/task/{task}/children")
                    members.extend(int(child) for child in children.split())
    return members


def _read(path: str) -> bytes:
    """A file of /proc. Files and paths as objects take seven times as long, for each kernel."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(descriptor, 4096)
        while piece:
            piece = os.read(descriptor, 4096)
            data += piece
        return data
    finally:
        os.close(descriptor)
