"""A file system of its own for what runs, in which the service's files are covered."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from kernelagent.isolation import calls

# With these, whoever is root changes the system or has it run a program outside.
_SYSTEM = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/sys")
_COVER = "size=4k,nr_inodes=2,mode=555"


def apply(hidden: Sequence[str], runner: int, *, is_root: bool) -> None:
    """Move this process into it; raises OSError, and then it can be of no use any more.

    `runner` is the user of what will run. Where that is root, the disks, what controls the system
    and other processes are covered as well.
    """
    if is_root:
        calls.unshare(calls.CLONE_NEWNS)
    else:
        _map_user(os.getuid(), os.getgid())
    # What is mounted outside later shall be seen inside, but not the other way.
    calls.mount("none", "/", None, calls.MS_REC | calls.MS_SLAVE)
    for path in hidden:
        _pin(path, runner)
    for path in hidden:
        if os.path.isdir(path):
            flags = calls.MS_RDONLY | calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC
            calls.mount("none", path, "tmpfs", flags, _COVER)
        else:
            calls.mount("/dev/null", path, None, calls.MS_BIND)
    if runner == 0:
        for path in _block_devices("/dev"):
            calls.mount("/dev/null", path, None, calls.MS_BIND)
        _hide_processes()
        for path in _SYSTEM:
            if os.path.exists(path):
                calls.mount(path, path, None, calls.MS_BIND | calls.MS_REC)
                calls.set_read_only(path)


def _map_user(uid: int, gid: int) -> None:
    calls.unshare(calls.CLONE_NEWUSER | calls.CLONE_NEWNS)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)


def _hide_processes() -> None:
    """Let `/proc` show no process outside: root may write to files there of any that it shows.

    Covering that of one process would not do: each of its threads has such files too.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        paths = [line.split()[4] for line in file]
    # What container engines cover of it stays covered.
    above = {path: os.open(path, os.O_PATH) for path in paths if path.startswith("/proc/")}
    try:
        flags = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC
        try:
            calls.mount("proc", "/proc", "proc", flags, "hidepid=4")
        except OSError:  # before Linux 5.8, or not the root of the machine or container
            return
        for path, descriptor in above.items():
            if os.path.exists(path):
                calls.mount(f"/proc/self/fd/{descriptor}", path, None, calls.MS_BIND)
    finally:
        for descriptor in above.values():
            os.close(descriptor)


def _pin(path: str, runner: int) -> None:
    """What is mounted cannot be renamed, and what is covered must not be moved out of its place."""
    above = [os.path.dirname(path)]
    while above[-1] != "/":
        above.append(os.path.dirname(above[-1]))
    for directory in reversed(above[:-1]):
        if movable(directory, runner):
            calls.mount(directory, directory, None, calls.MS_BIND | calls.MS_REC)


def movable(directory: str, uid: int) -> bool:
    """Whether `uid` could rename it; it may be in every group."""
    parent, own = os.stat(os.path.dirname(directory)), os.stat(directory)
    if uid == 0:
        return True
    if parent.st_mode & stat.S_ISVTX:
        return uid in (parent.st_uid, own.st_uid)
    return parent.st_uid == uid or bool(parent.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _block_devices(folder: str, depth: int = 2) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISBLK(mode):
                yield entry.path
            elif stat.S_ISDIR(mode) and depth > 1:
                yield from _block_devices(entry.path, depth - 1)
