"""A memory limit for each kernel by a control group (cgroup) of the system, v1 or v2.

A page counts for the group whose process touched it first, and stays there: what a process had
before it was added counts for nothing, what it then copies or allocates does. The cache of files
counts as well, but makes way before anything is killed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

_REMOVE_TIMEOUT = 1.0
_REMOVE_INTERVAL = 0.002


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The highest use of a group so far and its limit; both in bytes."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Version:
    """What the files of a group are called.

    `join` is where a process that has but one thread joins by itself, if there is such a file;
    `also` are settings for the systems that have these files, made in this order after the limit.
    `use` are the files that tell the highest use, the best one first.
    """

    limit: str
    join: str | None
    also: Mapping[str, str]
    use: tuple[str, ...]
    events: str


_V1 = _Version(
    limit="memory.limit_in_bytes",
    join="tasks",
    # Memory and swap together; never less than memory alone, so it comes after.
    also={"memory.memsw.limit_in_bytes": "{limit}"},
    use=("memory.max_usage_in_bytes",),
    events="memory.oom_control",
)
_V2 = _Version(
    limit="memory.max",
    join=None,
    # By the second, a kernel and its children are killed together.
    also={"memory.swap.max": "0", "memory.oom.group": "1"},
    # Linux before 5.19 knows only the use of now.
    use=("memory.peak", "memory.current"),
    events="memory.events",
)


class MemoryGroups:
    """The folder below which each kernel gets a memory group of its own; made by `open`."""

    def __init__(self, folder: Path, version: _Version) -> None:
        self._folder = folder
        self._version = version

    @property
    def folder(self) -> Path:
        """Where the groups are."""
        return self._folder

    @classmethod
    def open(
        cls,
        name: str,
        *,
        root: Path = Path("/sys/fs/cgroup"),
        membership: Path = Path("/proc/self/cgroup"),
    ) -> MemoryGroups | str:
        """Make the folder `name` in the group of this process, or say why there can be none.

        No two processes may use the same name. The folder is in our own group, so that whatever
        limits the service still limits its kernels.
        """
        try:
            own, version = _own_group(root, membership)
            folder = own / name
            # It may be there: left by a process that was killed and whose id we got.
            folder.mkdir(exist_ok=True)
            try:
                if version is _V2:
                    _enable(own)
                    _enable(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    folder.rmdir()
                raise
        except OSError as error:
            return str(error)
        return cls(folder, version)

    def create(self, name: str, limit: int) -> MemoryGroup:
        """An empty group that may use `limit` bytes; raises OSError, and then there is none."""
        folder = self._folder / name
        folder.mkdir()
        try:
            _write(folder / self._version.limit, str(limit))
            for file, value in self._version.also.items():
                if (folder / file).exists():
                    _write(folder / file, value.format(limit=limit))
        except BaseException:
            folder.rmdir()
            raise
        return MemoryGroup(folder, limit, self._version)

    def close(self) -> None:
        """Remove the folder; groups that still hold processes are left and logged.

        May be repeated.
        """
        remove_groups(self._folder)


def remove_groups(folder: Path) -> None:
    """Remove a folder of groups; those that still hold processes are left and logged."""
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    try:
        groups = [path for path in folder.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return
    for path in (*groups, folder):
        try:
            _remove(path, deadline)
        except OSError as error:
            log.warning("a memory group is left: %s", error)


class MemoryGroup:
    """The memory of a kernel and of its children; made by `MemoryGroups.create`.

    `limit` is what was asked, in bytes; the system rounds it to pages.
    """

    def __init__(self, folder: Path, limit: int, version: _Version) -> None:
        self.limit = limit
        self._folder = folder
        self._version = version

    @property
    def join_file(self) -> Path | None:
        """Where a process with one thread writes 0 to join at once; None if it must be added."""
        return None if self._version.join is None else self._folder / self._version.join

    def add(self, pid: int) -> None:
        """Move a process in, with all its threads; raises OSError.

        What it starts from now on is in the group too, what it has started before is not. Takes
        about 10 ms, during which the process runs on outside.
        """
        _write(self._folder / "cgroup.procs", str(pid))

    def use(self) -> MemoryUse:
        """The highest use so far, the cache of files included; raises OSError once removed."""
        *newer, oldest = (self._folder / file for file in self._version.use)
        path = next((path for path in newer if path.exists()), oldest)
        return MemoryUse(int(path.read_text()), self.limit)

    def oom_kills(self) -> int:
        """Processes of the group that the system killed at the limit; raises OSError once removed.

        Linux before 4.13 does not count them: 0.
        """
        for line in (self._folder / self._version.events).read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def remove(self) -> None:
        """Remove the group, whose processes must have ended; raises OSError if not within 1 s.

        May be repeated.
        """
        _remove(self._folder, time.monotonic() + _REMOVE_TIMEOUT)


def _own_group(root: Path, membership: Path) -> tuple[Path, _Version]:
    """The folder of our own memory group; raises OSError with the reason if there is none."""
    paths = {}
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    if "memory" in paths:
        own = _find(root / "memory", paths["memory"])
        if not (own / "memory.limit_in_bytes").exists():
            raise OSError(f"{own} does not control memory")
        return own, _V1
    if "" not in paths:
        raise OSError(f"{membership} names no group that could control memory")
    # Beside hierarchies of v1, that of v2 has a folder of its own.
    unified = root / "unified"
    own = _find(unified if unified.is_dir() else root, paths[""])
    if "memory" not in (own / "cgroup.controllers").read_text().split():
        raise OSError(f"{own} does not control memory")
    return own, _V2


def _find(hierarchy: Path, path: str) -> Path:
    """The folder of the group `path`; raises OSError.

    A container may see only the lower part of a hierarchy, but the whole path. So we look for the
    folder that lists this process.
    """
    parts = PurePosixPath(path).parts[1:]
    for start in range(len(parts) + 1):
        folder = hierarchy.joinpath(*parts[start:])
        with contextlib.suppress(OSError):
            if str(os.getpid()) in (folder / "cgroup.procs").read_text().split():
                return folder
    raise OSError(f"the group {path} of this process is not to be seen in {hierarchy}")


def _enable(folder: Path) -> None:
    """Let the groups in `folder` limit memory (v2); raises OSError.

    Never undone: others may have come to rely on it.
    """
    control = folder / "cgroup.subtree_control"
    if "memory" in control.read_text().split():
        return
    try:
        _write(control, "+memory")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # Only the root of the hierarchy may do both. To move the processes is not up to us.
        raise OSError(f"{folder} holds processes, so no group in it can limit memory") from error


def _write(path: Path, value: str) -> None:
    """One write to a file that must be there; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        # By itself it does not tell the file.
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _remove(folder: Path, deadline: float) -> None:
    """Remove a group and those that were made in it; raises OSError if still busy at `deadline`."""
    while True:
        try:
            for path, _, _ in os.walk(folder, topdown=False):
                Path(path).rmdir()
            return
        except OSError as error:
            # Not found: another thread removes it as well.
            if error.errno not in (errno.EBUSY, errno.ENOENT) or time.monotonic() >= deadline:
                raise
        # A process that has ended can take a moment to let go of its group.
        time.sleep(_REMOVE_INTERVAL)
