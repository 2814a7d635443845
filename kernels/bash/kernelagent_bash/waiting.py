"""Whether some program waits for somebody to type a line."""

from __future__ import annotations

import platform
from pathlib import Path

# The number of read(2).
_READ = {"x86_64": 0, "aarch64": 63, "riscv64": 63}.get(platform.machine(), -1)
_MOST_PROCESSES = 1000


def waits_for_line(shell: int, terminal: str) -> bool:
    """Whether the shell or a descendant of it is blocked in a read of `terminal`.

    False where the system does not tell (a hardened kernel): such a program waits until its time is
    over.
    """
    todo, seen = [shell], 0
    while todo and seen < _MOST_PROCESSES:
        pid = todo.pop()
        seen += 1
        if _reads(pid, terminal):
            return True
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
        except OSError:
            continue
    return False


def _reads(pid: int, terminal: str) -> bool:
    try:
        call, descriptor, *_ = Path(f"/proc/{pid}/syscall").read_text().split()
        if int(call) != _READ:
            return False
        link = Path(f"/proc/{pid}/fd/{int(descriptor, 16)}").readlink()
    except (OSError, ValueError):
        # It runs, or has ended.
        return False
    return str(link) in (terminal, "/dev/tty")
