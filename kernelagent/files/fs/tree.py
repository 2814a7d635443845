"""Directories with all that is in them: gone through, removed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kernelagent.files.fs.paths import TEMPORARY_PREFIX, Identity

# Each level holds a descriptor.
DEEPEST = 200

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a directory that is gone through: `directory` is open until the next one."""

    directory: int
    name: str
    path: str
    facts: os.stat_result

    @property
    def is_directory(self) -> bool:
        """A directory itself, not a link to one."""
        return stat.S_ISDIR(self.facts.st_mode)

    @property
    def is_file(self) -> bool:
        """A regular file, not a link to one."""
        return stat.S_ISREG(self.facts.st_mode)

    @property
    def is_link(self) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.facts.st_mode)

    def open(self) -> int:
        """A descriptor to read it; raises OSError, also if it is a link by now."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(self.name, flags, dir_fd=self.directory)

    def target(self) -> str:
        """Where the link leads."""
        return os.readlink(self.name, dir_fd=self.directory)


@dataclass(slots=True)
class Omissions:
    """What was not gone through, as it cannot be read or is too deep."""

    paths: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, path: str) -> None:
        """One more; not all are named."""
        self.count += 1
        if len(self.paths) < 1000:
            self.paths.append(path)


def walk(
    directory: int,
    is_closed: Callable[[os.stat_result], bool],
    omissions: Omissions,
    *,
    recursive: bool = True,
) -> Iterator[Entry]:
    """Everything in `directory` and beneath it, in the order of names, links not followed.

    `directory` is closed at the end. What is closed to clients, or is not finished, is left out.
    """
    levels: list[tuple[int, str, list[str]]] = [(directory, "", [])]
    try:
        levels[0][2].extend(_names(directory))
        while levels:
            current, prefix, names = levels[-1]
            if not names:
                os.close(levels.pop()[0])
                continue
            name = names.pop()
            path = prefix + name
            try:
                facts = os.stat(name, dir_fd=current, follow_symlinks=False)
            except OSError:
                continue  # gone by now
            if is_closed(facts) or name.startswith(TEMPORARY_PREFIX):
                continue
            entry = Entry(current, name, path, facts)
            yield entry
            if recursive and entry.is_directory:
                below = _descend(entry, len(levels), is_closed, omissions)
                if below is not None:
                    levels.append(below)
    finally:
        for opened, _, _ in levels:
            os.close(opened)


def _descend(
    entry: Entry,
    depth: int,
    is_closed: Callable[[os.stat_result], bool],
    omissions: Omissions,
) -> tuple[int, str, list[str]] | None:
    if depth >= DEEPEST:
        omissions.add(entry.path)
        return None
    try:
        opened = os.open(entry.name, _DIRECTORY, dir_fd=entry.directory)
    except OSError:
        omissions.add(entry.path)
        return None
    try:
        if is_closed(os.fstat(opened)):
            os.close(opened)
            return None
        return opened, f"{entry.path}/", _names(opened)
    except BaseException:
        os.close(opened)
        raise


def _names(directory: int) -> list[str]:
    """Names in a directory, the first one last."""
    with os.scandir(directory) as entries:
        return sorted((entry.name for entry in entries), reverse=True)


def remove_tree(directory: int, name: str) -> None:
    """Remove the directory `name` in `directory` with all that is in it; raises OSError.

    However deep it is: one descriptor at a time, and on the way back up each directory must be the
    one that we came through.
    """
    here = os.open(name, _DIRECTORY, dir_fd=directory)
    way = [(Identity.of(os.fstat(directory)), name)]
    try:
        while True:
            below = _empty(here)
            if below is not None:
                way.append((Identity.of(os.fstat(here)), below))
                here = _replace(here, below)
                continue
            above, name = way.pop()
            if not way:
                os.rmdir(name, dir_fd=directory)
                return
            here = _replace(here, "..")
            if Identity.of(os.fstat(here)) != above:
                raise OSError(errno.EBUSY, "it was moved while it was removed")
            os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _replace(here: int, name: str) -> int:
    """The directory `name` in `here`, which is closed."""
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _empty(directory: int) -> str | None:
    """Remove what is no directory; the name of one that is, if there is one."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=directory)
    return None
