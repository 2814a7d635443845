"""A directory that is filled unseen, and then becomes or joins the one that was asked for."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kernelagent.errors import ArchiveRefused, FileAlreadyExists
from kernelagent.files.fs import names, syscalls
from kernelagent.files.fs.draft import sync, temporary_name
from kernelagent.files.fs.paths import Place, make_directory, not_allowed, told
from kernelagent.files.fs.tree import DEEPEST as DEEPEST_COPY
from kernelagent.files.fs.tree import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

DEEPEST = 100
_IMPLIED_MODE = 0o755
# What it takes to fill a directory.
_OWNER = 0o700
_LONGEST_TARGET = 4096
# Up to here any ratio will do.
RATIO_FROM = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much may come out of an archive."""

    entries: int
    bytes: int
    ratio: int = 200


class Staging:
    """Takes files, directories and links by their names in an archive.

    Nothing is at its place before `commit`, and nothing is left after `discard`, which is owed in
    any case. Until then all of it is in the directory `parent`, unseen. Names that lead outside,
    and links that do, are refused with ArchiveRefused.
    """

    def __init__(
        self,
        place: Place,
        is_closed: Callable[[os.stat_result], bool],
        limits: ArchiveLimits | None = None,
    ) -> None:
        self._is_closed = is_closed
        self._limits = limits
        self._deepest = DEEPEST_COPY if limits is None else DEEPEST
        self._destination = _open_existing(place)
        self.parent = os.dup(place.directory if self._destination is None else self._destination)
        self._place_directory = os.dup(place.directory)
        self._place_name = place.name
        self._name = temporary_name()
        self._root = -1
        self._file = -1
        # Of directories, each behind the one that holds it.
        self._modes: dict[str, tuple[int, float | None]] = {}
        self._merged: set[str] = set()
        self._file_facts: tuple[int, float | None] = (0o644, None)
        self.entries = 0
        self._implied = 0
        self.bytes = 0
        self.consumed = 0
        try:
            self._root = make_directory(self.parent, self._name, 0o700)
            readable = os.open(".", _DIRECTORY, dir_fd=self._root)
            os.close(self._root)
            self._root = readable
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.discard()
            raise

    def directory(self, name: str, mode: int, modified: float | None) -> None:
        """Have a directory."""
        parts = _parts(name, self._deepest)
        self._count()
        if not parts:
            return  # the whole archive's
        os.close(self._enter(parts, named=True))
        self._modes["/".join(parts)] = (mode & 0o777, modified)

    def begin_file(self, name: str, mode: int, modified: float | None) -> None:
        """Have a file, whose contents are written next; `end_file` follows."""
        parts = _parts(name, self._deepest)
        self._count()
        if not parts:
            raise ArchiveRefused("the archive has a file without a name")
        above = self._enter(parts[:-1])
        try:
            self._clear(above, parts[-1])
            self._file = os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=above)
        finally:
            os.close(above)
        self._file_facts = (mode, modified)

    def write(self, data: bytes) -> None:
        """Append to the file."""
        self.bytes += len(data)
        limits = self._limits
        if limits is not None:
            if self.bytes > limits.bytes:
                raise ArchiveRefused(
                    f"the archive unpacks to more than {limits.bytes} bytes",
                    details={"limit": limits.bytes},
                )
            if self.bytes > max(RATIO_FROM, self.consumed * limits.ratio):
                raise ArchiveRefused(
                    f"the archive unpacks to more than {limits.ratio} times its size",
                    details={"limit": limits.ratio},
                )
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def end_file(self) -> None:
        """The file is complete."""
        mode, modified = self._file_facts
        try:
            os.fchmod(self._file, mode & 0o777)
            if modified is not None:
                _set_time(self._file, modified)
        finally:
            os.close(self._file)
            self._file = -1

    def link(self, name: str, target: str) -> None:
        """Have a symbolic link."""
        parts = _parts(name, self._deepest)
        self._count()
        if not parts or not target or "\0" in target or len(os.fsencode(target)) > _LONGEST_TARGET:
            raise ArchiveRefused("the archive has a link that leads nowhere")
        if self._limits is not None and _leads_outside(parts, target):
            raise ArchiveRefused(
                f"the archive has a link that leads outside: {_told(name)}",
                details={"entry": _told(name)},
            )
        above = self._enter(parts[:-1])
        try:
            self._clear(above, parts[-1])
            os.symlink(target, parts[-1], dir_fd=above)
        finally:
            os.close(above)

    def second_name(self, name: str, of: str, mode: int, modified: float | None) -> None:
        """Have a copy of a file that came before: an archive's hard link."""
        parts = _parts(of, self._deepest)
        if not parts:
            raise ArchiveRefused("the archive has a hard link that leads nowhere")
        try:
            above = self._enter(parts[:-1], make=False)
            try:
                source = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
        except OSError:
            raise ArchiveRefused(
                f"the archive has a hard link to what is not in it: {_told(name)}",
                details={"entry": _told(name)},
            ) from None
        try:
            self.begin_file(name, mode, modified)
            while data := os.read(source, 1024 * 1024):
                self.write(data)
            self.end_file()
        finally:
            os.close(source)

    def commit(self, *, mode: int, overwrite: bool) -> None:
        """Put everything at its place; raises FileAlreadyExists and then has changed nothing."""
        for name, (own_mode, modified) in reversed(self._modes.items()):
            opened = self._enter(name.split("/"), make=False)
            try:
                os.fchmod(opened, own_mode | _OWNER)
                if modified is not None:
                    _set_time(opened, modified)
            finally:
                os.close(opened)
        if self._destination is None:
            os.fchmod(self._root, mode | _OWNER)
            syscalls.rename_new(
                self._name,
                self._place_name,
                directory=self.parent,
                new_directory=self._place_directory,
            )
            self._restrict(self._root)
            os.fchmod(self._root, mode)
            sync(self._place_directory)
            self._name = ""
            return
        for check_only in (True, False):
            self._merge(self._root, self._destination, "", overwrite, check_only=check_only)
        self._restrict(self._destination)
        sync(self._destination)

    def discard(self) -> None:
        """Remove what is not at its place; may be repeated."""
        try:
            if self._file >= 0:
                os.close(self._file)
            if self._root >= 0:
                os.close(self._root)
            if self._name:
                name, self._name = self._name, ""
                try:
                    remove_tree(self.parent, name)
                except FileNotFoundError:
                    return
        finally:
            self._file = self._root = -1
            for descriptor in (self.parent, self._place_directory, self._destination):
                if descriptor is not None and descriptor >= 0:
                    os.close(descriptor)
            self.parent = self._place_directory = -1
            self._destination = None

    def _restrict(self, root: int) -> None:
        """Take rights from directories that are at their place and need not change any more."""
        for name, (mode, _) in reversed(self._modes.items()):
            if mode & _OWNER == _OWNER or name in self._merged:
                continue
            try:
                opened = _open_below(root, name.split("/"))
            except OSError:
                continue  # it has been moved by now
            try:
                os.fchmod(opened, mode)
            finally:
                os.close(opened)

    def _count(self) -> None:
        self.entries += 1
        self._check_count()

    def _check_count(self) -> None:
        made = self.entries + self._implied
        if self._limits is not None and made > self._limits.entries:
            raise ArchiveRefused(
                f"the archive has more than {self._limits.entries} entries",
                details={"limit": self._limits.entries},
            )

    def _enter(self, parts: list[str], *, make: bool = True, named: bool = False) -> int:
        """A descriptor of a directory in here; close it. `named` says that it is an entry."""
        try:
            return _open_below(
                self._root, parts, partial(self._make, parts, named) if make else None
            )
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                shown = _told("/".join(parts))
                raise ArchiveRefused(
                    f"the archive has a file, a link or too long a name on the way to: {shown}",
                    details={"entry": shown},
                ) from None
            raise

    def _make(self, parts: list[str], named: bool, here: int, depth: int) -> None:
        """Have the directory of the first `depth` parts, of which `here` holds the last."""
        try:
            os.mkdir(parts[depth - 1], _OWNER, dir_fd=here)
        except FileExistsError:
            return
        self._modes["/".join(parts[:depth])] = (_IMPLIED_MODE, None)
        if not named or depth < len(parts):
            self._implied += 1
            self._check_count()

    def _clear(self, above: int, name: str) -> None:
        """Let a later entry of the same name take the place of an earlier file or link."""
        try:
            os.unlink(name, dir_fd=above)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            raise ArchiveRefused(
                f"the archive has a directory and a file of the same name: {_told(name)}",
                details={"entry": _told(name)},
            ) from None

    def _merge(
        self, source: int, target: int, path: str, overwrite: bool, *, check_only: bool
    ) -> None:
        with os.scandir(source) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in found:
            try:
                there = os.stat(name, dir_fd=target, follow_symlinks=False)
            except FileNotFoundError:
                there = None
            if there is not None and self._is_closed(there):
                raise not_allowed(name)
            if there is not None and is_directory and stat.S_ISDIR(there.st_mode):
                below, beneath = os.open(name, _DIRECTORY, dir_fd=source), -1
                try:
                    beneath = os.open(name, _DIRECTORY, dir_fd=target)
                    if self._is_closed(os.fstat(beneath)):
                        raise not_allowed(name)
                    self._merged.add(f"{path}{name}")
                    self._merge(below, beneath, f"{path}{name}/", overwrite, check_only=check_only)
                finally:
                    os.close(below)
                    if beneath >= 0:
                        os.close(beneath)
                continue
            if there is not None and (not overwrite or is_directory or stat.S_ISDIR(there.st_mode)):
                raise FileAlreadyExists(f"this exists already: {_told(name)}")
            if not check_only:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)


def _open_below(root: int, parts: list[str], make: Callable[[int, int], None] | None = None) -> int:
    """A descriptor of a directory, each name of the way first made by `make`; raises OSError."""
    here = os.open(".", _DIRECTORY, dir_fd=root)
    for depth, part in enumerate(parts, 1):
        try:
            if make is not None:
                make(here, depth)
            there = os.open(part, _DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = there
    return here


def _open_existing(place: Place) -> int | None:
    """The destination, if it is there; raises NotADirectoryError."""
    try:
        return os.open(place.name, _DIRECTORY, dir_fd=place.directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise


def _parts(name: str, deepest: int) -> list[str]:
    """The components of an entry's name; raises ArchiveRefused for one that leads outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise ArchiveRefused(
            f"the archive has a name that leads outside: {_told(name)}",
            details={"entry": _told(name)},
        )
    if len(parts) > deepest or any(len(os.fsencode(part)) > 255 for part in parts):
        raise ArchiveRefused(
            f"the archive has a name that is too long or too deep: {_told(name)}",
            details={"entry": _told(name)},
        )
    return parts


def _leads_outside(parts: list[str], target: str) -> bool:
    """Whether it may: above a name, which may be a link itself, can be anything."""
    steps = [part for part in target.split("/") if part not in ("", ".")]
    up = next((at for at, part in enumerate(steps) if part != ".."), len(steps))
    return target.startswith("/") or up >= len(parts) or ".." in steps[up:]


def _set_time(descriptor: int, modified: float) -> None:
    try:
        os.utime(descriptor, (modified, modified))
    except (OverflowError, ValueError):
        return  # an archive may name a time that no file system has


def _told(name: str) -> str:
    return told(names.shown(name)).replace("\0", "\\0")
