"""What the system says about directories: which names in them may have changed.

A thin layer over watchfiles, which alone would follow symbolic links, stop for good at a name that
is no UTF-8, and say nothing about events that it lost. So it is given directories one by one, and
what it says is taken as a hint of where to look.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from kernelagent.errors import WatchLimit

# Hints are gathered until none has come for one tick, or for the longest time; seconds.
TICK = 0.05
LONGEST = 0.2

# Each part is made while nothing else runs (watchfiles keeps the interpreter's lock): 10 to 20 µs
# for a directory. More parts take more of the system's inotify instances.
_PART = 500
# Small parts are joined with one of up to this many times their size, so that there are few.
_GROWTH = 8
# Directories may go while they are looked at, again and again.
_ATTEMPTS = 20
# How watchfiles says that the system has no more inotify watches, or instances.
_EXHAUSTED = ("MaxFilesWatch", "os error 24", "os error 28")


class Hint(IntFlag):
    """What may have happened to a name."""

    ADDED = 1
    MODIFIED = 2
    DELETED = 4


_HINTS = {1: Hint.ADDED, 2: Hint.MODIFIED, 3: Hint.DELETED}


@dataclass(slots=True)
class Hints:
    """A batch: what may have happened, by absolute path; anything may have if some were `lost`.

    It is `settled` if the last tick was silent: no half of a rename is still on its way.
    """

    names: dict[str, Hint]
    lost: bool
    settled: bool


class _Part:
    """Directories that watchfiles watches with one inotify instance and one thread."""

    __slots__ = ("_notify", "directories")

    def __init__(self, directories: list[str]) -> None:
        self.directories, self._notify = _watch(directories)

    def take(self) -> Iterable[tuple[int, str]]:
        """What came since the last time; raises WatchfilesRustInternalError, then ever again."""
        taken = self._notify.watch(1, 1, 1, None)
        return () if isinstance(taken, str) else taken

    def close(self) -> None:
        self._notify.close()


class Notifier:
    """Directories that are watched, each without what is beneath it; used by one thread."""

    def __init__(self, most: int, is_wanted: Callable[[str], bool]) -> None:
        self._most = most
        self._is_wanted = is_wanted
        self._parts: list[_Part] = []
        # How many directories there were when what had gone was last left out.
        self._cleaned = 0
        self._names: dict[str, Hint] = {}
        self._lost = False

    def add(self, directories: Iterable[str]) -> None:
        """Watch these too, also if something else was watched by their names.

        What is no directory any more is passed over. Raises WatchLimit.
        """
        for piece in _pieces(list(filter(is_text, directories))):
            self._parts.append(_Part(piece))
            self._join()
            total = self._total()
            if total > min(2 * self._cleaned + _PART, self._most):
                self._clean()
            if self._cleaned > self._most:
                raise WatchLimit(
                    f"more than {self._most} directories beneath the path are too many to watch",
                    details={"limit": self._most},
                )

    def collect(self, stop: threading.Event, patience: float) -> Hints | None:
        """The next batch, an empty one after `patience` seconds of silence; None once stopped."""
        due = time.monotonic() + patience
        has_some = False
        while not stop.wait(TICK):
            count = sum(self._take(part) for part in self._parts)
            now = time.monotonic()
            if not has_some and (self._names or self._lost):
                has_some, due = True, now + LONGEST
            if now >= due or (has_some and not count):
                batch = Hints(self._names, self._lost, settled=not count)
                self._names, self._lost = {}, False
                return batch
        return None

    def close(self) -> None:
        """End it, with all its threads."""
        for part in self._parts:
            part.close()
        self._parts = []

    def _take(self, part: _Part) -> int:
        """Gather what a part has to say; how much that was."""
        try:
            taken = part.take()
        except WatchfilesRustInternalError:
            # A name that is no UTF-8, for one; it would tell nothing else from now on.
            self._lost = True
            self._parts[self._parts.index(part)] = _Part(part.directories)
            part.close()
            return 1
        count = 0
        for kind, path in taken:
            self._names[path] = self._names.get(path, Hint(0)) | _HINTS[kind]
            count += 1
        return count

    def _total(self) -> int:
        return sum(len(part.directories) for part in self._parts)

    def _clean(self) -> None:
        """Leave out the directories that have gone."""
        every = dict.fromkeys(path for part in self._parts for path in part.directories)
        old, self._parts = self._parts, []
        try:
            for piece in _pieces(list(filter(self._is_wanted, every))):
                self._parts.append(_Part(piece))
        finally:
            self._retire(old)
        self._cleaned = self._total()

    def _join(self) -> None:
        parts = self._parts
        while len(parts) > 1:
            large, small = parts[-2].directories, parts[-1].directories
            if len(large) + len(small) > _PART or len(large) > _GROWTH * len(small):
                return
            both = dict.fromkeys((*large, *small))
            joined = _Part(list(filter(self._is_wanted, both)))
            old, parts[-2:] = parts[-2:], [joined]
            self._retire(old)

    def _retire(self, parts: list[_Part]) -> None:
        """Close parts whose directories others watch by now, with what they still have to say."""
        for part in parts:
            try:
                for kind, path in part.take():
                    self._names[path] = self._names.get(path, Hint(0)) | _HINTS[kind]
            except WatchfilesRustInternalError:
                self._lost = True
            part.close()


def _watch(directories: list[str]) -> tuple[list[str], RustNotify]:
    """Those of the directories that can be watched, watched."""
    for _ in range(_ATTEMPTS):
        try:
            # Told to ignore what it may not read, it would ignore the system's limits too.
            return directories, RustNotify(directories, False, False, 0, False, False)
        except (OSError, WatchfilesRustInternalError) as error:
            reason = str(error)
            if any(sign in reason for sign in _EXHAUSTED):
                raise WatchLimit(
                    "the system has no more inotify watches or instances for this user: raise "
                    "fs.inotify.max_user_watches or fs.inotify.max_user_instances, or watch less"
                ) from None
            if not isinstance(error, OSError):
                raise
        directories = [path for path in directories if _is_readable(path)]
    # Directories come and go at a rate at which they cannot be watched: what happens in them is
    # found when the tree is looked through.
    return [], RustNotify([], False, False, 0, False, False)


def _is_readable(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
        return stat.S_ISDIR(mode) and os.access(path, os.R_OK | os.X_OK, effective_ids=True)
    except OSError:
        return False


def is_text(path: str) -> bool:
    """Whether watchfiles can take it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pieces(directories: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(directories), _PART):
        yield directories[start : start + _PART]
