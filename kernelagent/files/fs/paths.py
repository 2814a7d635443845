"""Clients' paths, resolved by descriptor beneath the allowed roots.

A name is never looked at and then used: what was looked at is held open, and what is done to it
goes through the directory that holds it. So a symbolic link, or a directory that is renamed in the
meantime, leads nowhere outside.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from kernelagent.errors import InvalidPath, PathNotAllowed
from kernelagent.files.fs import names, syscalls
from kernelagent.workspace.paths import real_path

# Names of what is not finished yet, or was left by a crash; no client's business.
TEMPORARY_PREFIX = ".kernelagent-part-"

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANYTHING = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# As many as Linux follows itself.
_MOST_LINKS = 40
_LONGEST_PATH = 4096
_LONGEST_NAME = 255
_LONGEST_TOLD = 500
_PROC = Path("/proc")


class Identity(NamedTuple):
    """What tells a directory from every other, whatever its name is."""

    device: int
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Self:
        """Of what `os.stat` says."""
        return cls(facts.st_dev, facts.st_ino)


class Place:
    """An open directory and a name in it; `name` is "." for the directory itself.

    `made` are the names of those directories above that were made for it, down to this one. A
    context manager: leaving it closes the directory.
    """

    __slots__ = ("directory", "made", "name", "path")

    def __init__(self, directory: int, name: str, path: str, made: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.name = name
        self.path = path
        self.made = made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.directory)

    def unmake(self) -> None:
        """Remove the directories that were made for it, unless others use them by now."""
        here = os.dup(self.directory)
        try:
            for name in reversed(self.made):
                above = os.open("..", _DIRECTORY, dir_fd=here)
                is_it = _is_in(above, name, here)
                os.close(here)
                here = above
                if not is_it:
                    return
                os.rmdir(name, dir_fd=above)
        except OSError:
            return
        finally:
            os.close(here)
            self.made = ()

    def facts(self) -> os.stat_result:
        """What is there, a link as itself; raises OSError."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def open(self, flags: int, mode: int = 0o600) -> int:
        """A descriptor of what is there; raises OSError, ELOOP if it is a link by now."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(self.name, flags, mode, dir_fd=self.directory)


class Roots:
    """The directories whose contents clients may use, less those that are `closed` to them.

    `workspace` is where relative paths begin; it is a root too. Roots need not exist yet. `beneath`
    says whether the system's own check is used where it exists.
    """

    def __init__(
        self,
        workspace: Path,
        roots: Iterable[Path],
        closed: Iterable[Path] = (),
        *,
        beneath: bool = True,
    ) -> None:
        self.workspace = str(workspace)
        self._beneath = beneath and syscalls.can_openat2()
        self._closed_paths = [Path(os.path.realpath(path)) for path in closed]
        self._closed: set[Identity] = set()
        names: dict[tuple[str, ...], tuple[str, ...]] = {}
        for root in (workspace, *roots):
            real = tuple(_split(os.path.realpath(root)))
            names[tuple(_split(str(root)))] = names[real] = real
        found = set(names.values())
        # What is beneath another root needs no entry of its own.
        self.roots = {
            root for root in found if not any(root[:n] in found for n in range(len(root)))
        }
        self.aliases = {alias: real for alias, real in names.items() if alias != real}
        self.above = {
            name[:length] for name in names for length in range(len(name)) if name not in self.roots
        } | {root[:length] for root in self.roots for length in range(len(root))}
        self.protected = [Path("/", *root) for root in found]

    def absolute(self, path: str) -> str:
        """`path` from the root of the file system, links and `..` as they are."""
        path = real_path(path, Path(self.workspace))
        return path if path.startswith("/") else f"{self.workspace}/{path}"

    def locate(self, path: str, *, follow: bool = True, make_mode: int | None = None) -> Place:
        """Where `path` is, or would be; close it.

        Links are followed as long as they stay beneath roots, the last one only if `follow`.
        Missing directories above the last name are made with `make_mode`. Raises PathNotAllowed,
        InvalidPath, OSError.
        """
        names = self._names(path)
        self._learn_closed()
        if self._beneath:
            place = self._locate_at_once(names, path, follow=follow)
            if place is not None:
                return place
        return self._walk(names, path, follow=follow, make_mode=make_mode)

    def closed(self) -> frozenset[Identity]:
        """The directories that are closed to clients and exist."""
        self._learn_closed()
        return frozenset(self._closed)

    def is_closed(self, facts: os.stat_result) -> bool:
        """Whether this directory is closed to clients."""
        return Identity.of(facts) in self._closed or facts.st_dev == _processes()

    def holds_protected(self, directory: Identity) -> bool:
        """Whether a root or a closed directory is this one, or somewhere beneath it."""
        for path in (*self.protected, *self._closed_paths):
            try:
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            if directory in ancestors(descriptor):
                return True
        return False

    def _names(self, path: str) -> list[str]:
        if not path or "\0" in path:
            raise InvalidPath("a path is not empty and has no NUL character")
        path = self.absolute(path)
        names = _split(path)
        longest = max(map(len, map(os.fsencode, names)), default=0)
        if len(os.fsencode(path)) >= _LONGEST_PATH or longest > _LONGEST_NAME:
            raise InvalidPath(
                f"the path is too long: {_LONGEST_PATH - 1} bytes at most, {_LONGEST_NAME} for "
                "each name in it"
            )
        return names

    def _learn_closed(self) -> None:
        for path in self._closed_paths:
            try:
                self._closed.add(Identity.of(path.stat()))
            except OSError:
                continue  # it is not there yet

    def open_root(self, root: tuple[str, ...], path: str, make_mode: int | None = None) -> int:
        """A descriptor of a root; raises PathNotAllowed if a link has taken its place."""
        name = "/" + "/".join(root)
        try:
            if make_mode is not None:
                Path(name).mkdir(make_mode, parents=True, exist_ok=True)
            return syscalls.open_without_links(name, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise not_allowed(path) from None
            raise

    def _locate_at_once(self, names: list[str], path: str, *, follow: bool) -> Place | None:
        """The place, by the system's own check; None if it takes a closer look."""
        root = next(
            (found for n in range(len(names)) if (found := tuple(names[:n])) in self.roots), None
        )
        if root is None or ".." in names[: len(root)] or names[-1] == "..":
            return None
        try:
            above = self.open_root(root, path)
        except OSError:
            return None
        try:
            below = "/".join(names[len(root) : -1]) or "."
            directory = syscalls.open_beneath(above, below, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return None  # the walk finds out why
        finally:
            os.close(above)
        place = Place(directory, names[-1], path)
        try:
            if not self._closed.isdisjoint(ancestors(os.dup(directory))):
                raise not_allowed(path)
            try:
                facts = place.facts()
            except FileNotFoundError:
                return place
            if follow and stat.S_ISLNK(facts.st_mode):
                os.close(directory)
                return None
            if self.is_closed(facts):
                raise not_allowed(path)
        except BaseException:
            os.close(directory)
            raise
        return place

    def _walk(self, names: list[str], path: str, *, follow: bool, make_mode: int | None) -> Place:
        walk = _Walk(self, path, names, make_mode)
        try:
            return walk.go(follow=follow)
        finally:
            walk.close()


class _Walk:
    """One path, name by name, each directory opened from the one above it."""

    def __init__(self, roots: Roots, path: str, names: list[str], make_mode: int | None) -> None:
        self._roots = roots
        self._path = path
        self._todo = names[::-1]
        self._make_mode = make_mode
        # Where we are; the directories from a root down to there, none if we are above all roots.
        self._here: list[str] = []
        self._open: list[int] = []
        # How many of the last ones we have made.
        self._made = 0
        self._links = 0

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def go(self, *, follow: bool) -> Place:
        self._arrive()
        while self._todo:
            name = self._todo.pop()
            if name == "..":
                self._leave()
            elif not self._open:
                self._here.append(name)
                self._arrive()
            else:
                place = self._enter(name, follow=follow)
                if place is not None:
                    return place
        if not self._open:
            raise not_allowed(self._path)
        return Place(self._open.pop(), ".", self._path)

    def _arrive(self) -> None:
        """Open the root that we have come to, if it is one."""
        roots = self._roots
        here = tuple(self._here)
        here = roots.aliases.get(here, here)
        self._here = list(here)
        if here in roots.roots:
            self._open = [roots.open_root(here, self._path, self._make_mode)]
            self._check(os.fstat(self._open[0]))
        elif here not in roots.above:
            raise not_allowed(self._path)

    def _place(self, name: str) -> Place:
        made = tuple(self._here[len(self._here) - self._made :])
        return Place(self._open.pop(), name, self._path, made)

    def _leave(self) -> None:
        self._made = max(0, self._made - 1)
        if self._open:
            os.close(self._open.pop())
        if self._here:
            self._here.pop()

    def _enter(self, name: str, *, follow: bool) -> Place | None:
        """Go down, or the place if `name` is the last one."""
        above = self._open[-1]
        is_last, made = not self._todo, 0
        try:
            descriptor = os.open(name, _ANYTHING, dir_fd=above)
        except FileNotFoundError:
            if is_last:
                return self._place(name)
            if self._make_mode is None:
                raise
            descriptor = make_directory(above, name, self._make_mode)
            made = self._made + 1
        try:
            facts = os.fstat(descriptor)
            if stat.S_ISLNK(facts.st_mode) and (follow or not is_last):
                self._follow(os.readlink("", dir_fd=descriptor))
                return None
            self._check(facts)
            if is_last:
                return self._place(name)
            if not stat.S_ISDIR(facts.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._path)
            self._open.append(os.dup(descriptor))
            self._here.append(name)
            self._made = made
        finally:
            os.close(descriptor)
        return None

    def _follow(self, target: str) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        if target.startswith("/"):
            self.close()
            self._here, self._made = [], 0
            self._arrive()
        self._todo.extend(reversed(_split(target)))

    def _check(self, facts: os.stat_result) -> None:
        if self._roots.is_closed(facts):
            raise not_allowed(self._path)


def make_directory(above: int, name: str, mode: int) -> int:
    """A descriptor of the directory `name` in `above`, made if it is missing; raises OSError."""
    try:
        os.mkdir(name, mode, dir_fd=above)
    except FileExistsError:
        return os.open(name, _DIRECTORY, dir_fd=above)
    return os.open(name, _DIRECTORY, dir_fd=above)


def _is_in(above: int, name: str, directory: int) -> bool:
    facts = os.stat(name, dir_fd=above, follow_symlinks=False)
    return Identity.of(facts) == Identity.of(os.fstat(directory))


def not_allowed(path: str) -> PathNotAllowed:
    """The error for a path that leads nowhere where clients may go."""
    shown = told(names.shown(path))
    return PathNotAllowed(f"this path is not allowed{quoted(shown)}", details={"path": shown})


def told(path: str) -> str:
    """`path` as an error tells it: not endless."""
    return path[:_LONGEST_TOLD]


def quoted(path: str) -> str:
    """`path` as the end of a sentence, unless published clients would misread it."""
    return "" if "not found" in path.lower() else f": {path}"


def _split(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def ancestors(descriptor: int) -> list[Identity]:
    """This directory and all above it; `descriptor` is closed."""
    found: list[Identity] = []
    try:
        while True:
            identity = Identity.of(os.fstat(descriptor))
            if found and identity == found[-1]:
                return found
            found.append(identity)
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = above
    finally:
        os.close(descriptor)


def _processes() -> int:
    """The device of /proc, whose files tell of processes; -1 if there is none."""
    try:
        return _PROC.stat().st_dev
    except OSError:
        return -1
