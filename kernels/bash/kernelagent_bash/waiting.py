"""Whether some program waits for somebody to type, and whether a shell waits for its next order."""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

_MOST_PROCESSES = 1000
_MOST_THREADS = 64
_MOST_DESCRIPTORS = 1024
# A program that looks again within this time (seconds) does not wait, it polls.
_LEAST_WAIT = 1
_POLLIN = 1

# System calls by number (syscall(2)): reads; poll, select, epoll_wait and their relatives.
_CALLS: dict[str, dict[int, str]] = {
    "x86_64": {
        **{0: "read", 19: "read", 7: "poll", 271: "ppoll", 23: "select", 270: "select"},
        **{232: "epoll", 281: "epoll", 441: "epoll2"},
    },
    "aarch64": {
        **{63: "read", 65: "read", 73: "ppoll", 72: "select", 22: "epoll", 441: "epoll2"},
    },
}
_CALLS["riscv64"] = _CALLS["aarch64"]
_NUMBERS = _CALLS.get(platform.machine(), {})
_WATCHED = re.compile(r"^tfd:\s*(\d+) events:\s*([0-9a-f]+)", re.MULTILINE)


def awaited_terminal(shell: int, terminals: Sequence[str]) -> str | None:
    """Which of `terminals` the shell, or a descendant of it, waits to read from; "/dev/tty" too.

    Those in the background do not count. None where the system does not tell (a hardened kernel):
    such a program waits until its time is over.
    """
    wanted = {*terminals, "/dev/tty"}
    for pid in family(shell):
        if not _in_front(pid):
            continue
        for descriptor in _awaited(pid):
            name = _file(pid, descriptor)
            if name in wanted:
                return name
    return None


def takes_orders(shell: int, control: str, own: str) -> bool:
    """Whether the shell itself waits for an order, with nothing redirected."""
    return 0 in _awaited(shell) and _file(shell, 0) == control and _file(shell, 1) == own


def is_stopped(pid: int) -> bool:
    """Whether it was stopped by a signal."""
    fields = _stat(pid)
    return bool(fields) and fields[0] == "T"


def group_of(pid: int) -> int:
    """Its process group; 0 if it has ended."""
    fields = _stat(pid)
    return int(fields[2]) if len(fields) > 2 else 0


def family(shell: int) -> Iterator[int]:
    """The shell, then its descendants."""
    todo, seen = [shell], 0
    while todo and seen < _MOST_PROCESSES:
        pid = todo.pop()
        seen += 1
        yield pid
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
        except OSError:
            continue


def _stat(pid: int) -> list[str]:
    """What follows the name in /proc/PID/stat: state, parent, group, session, terminal, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _in_front(pid: int) -> bool:
    fields = _stat(pid)
    return len(fields) > 5 and fields[0] == "S" and fields[2] == fields[5]


def _file(pid: int, descriptor: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
    except OSError:
        return ""


def _awaited(pid: int) -> list[int]:
    """The descriptors that its threads wait to read from."""
    found: list[int] = []
    try:
        threads = sorted(Path(f"/proc/{pid}/task").iterdir())[:_MOST_THREADS]
    except OSError:
        return found
    for thread in threads:
        try:
            number, *raw = (thread / "syscall").read_text().split()
            found += _awaited_by_call(pid, _NUMBERS.get(int(number), ""), [int(a, 16) for a in raw])
        except (OSError, ValueError, struct.error, OverflowError):
            # It runs, or has ended, or may not be looked at.
            continue
    return found


def _awaited_by_call(pid: int, call: str, args: list[int]) -> list[int]:
    match call:
        case "read":
            return [args[0]]
        case "poll":
            milliseconds = struct.unpack("i", struct.pack("I", args[2] & 0xFFFFFFFF))[0]
            return _polled(pid, args) if _is_long(milliseconds / 1000) else []
        case "ppoll":
            return _polled(pid, args) if _is_long(_seconds(pid, args[2])) else []
        case "select":
            return _selected(pid, args) if _is_long(_seconds(pid, args[4])) else []
        case "epoll":
            milliseconds = struct.unpack("i", struct.pack("I", args[3] & 0xFFFFFFFF))[0]
            return _watched(pid, args[0]) if _is_long(milliseconds / 1000) else []
        case "epoll2":
            return _watched(pid, args[0]) if _is_long(_seconds(pid, args[3])) else []
    return []


def _is_long(seconds: float) -> bool:
    return seconds < 0 or seconds >= _LEAST_WAIT


def _seconds(pid: int, address: int) -> float:
    """Of a timespec or timeval; below 0 for none, which is without end."""
    return float(struct.unpack("q", _memory(pid, address, 8))[0]) if address else -1


def _polled(pid: int, args: list[int]) -> list[int]:
    count = min(args[1], _MOST_DESCRIPTORS)
    entries = struct.iter_unpack("ihh", _memory(pid, args[0], 8 * count))
    return [descriptor for descriptor, events, _ in entries if events & _POLLIN]


def _selected(pid: int, args: list[int]) -> list[int]:
    if not args[1]:
        return []
    count = min(args[0], _MOST_DESCRIPTORS)
    bits = int.from_bytes(_memory(pid, args[1], (count + 7) // 8), "little")
    return [number for number in range(count) if bits >> number & 1]


def _watched(pid: int, descriptor: int) -> list[int]:
    text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    return [int(number) for number, events in _WATCHED.findall(text) if int(events, 16) & _POLLIN]


def _memory(pid: int, address: int, size: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size) or b""
