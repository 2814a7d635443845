"""The picture of a watched tree: what was there, so that it can be told what has changed.

Everything is reached by descriptor from the watched directory, and a directory is entered only if
it is the one that was seen in the directory above it: a symbolic link leads nowhere.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from kernelagent.files.watch_changes import Change, Event
from kernelagent.files.watch_notifier import Hint, Hints, Notifier

Identity = tuple[int, int]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# From so many hinted names on, and half of the directory, it is read as a whole.
_MANY = 64
# So many names of a directory are looked for to see whether it is the same.
_SAMPLE = 8


class RootGone(Exception):
    """What is watched is no longer where it was."""


class Stopped(Exception):
    """The work is no longer wanted."""


class Budget:
    """How many names all watches together may remember."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, *, at_any_rate: bool = False) -> bool:
        """Whether one more is free, which is then taken."""
        with self._lock:
            if self._left <= 0 and not at_any_rate:
                return False
            self._left -= 1
            return True

    def give(self, count: int = 1) -> None:
        """Take this many back."""
        with self._lock:
            self._left += count


class Node:
    """One name: a file, or a directory with what is in it."""

    __slots__ = ("children", "identity", "mtime", "partial", "stamp")

    def __init__(self, facts: os.stat_result) -> None:
        self.identity: Identity = (facts.st_dev, facts.st_ino)
        self.children: dict[str, Node] | None = {} if stat.S_ISDIR(facts.st_mode) else None
        # Whether there are names in it that are not remembered.
        self.partial = False
        self.mtime = facts.st_mtime_ns
        self.stamp = stamp_of(facts)

    @property
    def is_directory(self) -> bool:
        """Whether there can be something in it."""
        return self.children is not None

    def is_at(self, facts: os.stat_result) -> bool:
        """Whether this is what has these facts."""
        same = self.identity == (facts.st_dev, facts.st_ino)
        return same and self.is_directory == stat.S_ISDIR(facts.st_mode)

    def walk(self, path: str) -> Iterator[tuple[str, Node]]:
        """It and everything beneath it, with their paths."""
        todo = [(path, self)]
        while todo:
            path, node = todo.pop()
            yield path, node
            for name, child in (node.children or {}).items():
                todo.append((join(path, name), child))


def stamp_of(facts: os.stat_result) -> int:
    """A number that differs if the content or the rights do."""
    rights = (facts.st_mode, facts.st_uid, facts.st_gid)
    if stat.S_ISDIR(facts.st_mode):
        # Its size and times change with the names in it, which are told by themselves.
        return hash(rights)
    return hash((facts.st_mtime_ns, facts.st_size, *rights))


def join(directory: str, name: str) -> str:
    """Paths are relative; the watched directory's is empty."""
    return f"{directory}/{name}" if directory else name


def any_above(path: str, paths: Container[str]) -> bool:
    """Whether a path, or a directory above it, is one of `paths`."""
    while path:
        if path in paths:
            return True
        path = path.rpartition("/")[0]
    return False


def upwards(changes: Iterable[Change]) -> list[Change]:
    """What is in a directory before the directory."""
    return sorted(changes, key=lambda change: change.path, reverse=True)


@dataclass(slots=True)
class _Appeared:
    parent: Node
    path: str
    name: str
    facts: os.stat_result


@dataclass(slots=True)
class _Vanished:
    path: str
    node: Node
    parent: Node | None
    # The path of what vanished with it, itself or a directory above.
    top: str
    is_late: bool = False


@dataclass(slots=True)
class _Round:
    """What one look at the tree has found so far."""

    appeared: list[_Appeared] = field(default_factory=list)
    vanished: dict[Identity, list[_Vanished]] = field(default_factory=dict)
    # What is at a path now and was not: created or renamed.
    arrived: dict[str, Change] = field(default_factory=dict)
    modified: list[Change] = field(default_factory=list)
    deleted: list[Change] = field(default_factory=list)

    def vanish(self, path: str, node: Node) -> None:
        """Something is gone from its place, with all beneath it."""
        parents: dict[str, Node] = {}
        for below, gone in node.walk(path):
            parents[below] = gone
            entry = _Vanished(below, gone, parents.get(below.rpartition("/")[0]), path)
            self.vanished.setdefault(gone.identity, []).append(entry)


class Tree:
    """A directory with all beneath it, or one file in a directory; used by one thread.

    `root` is an open directory, and is closed with the tree; `path` is where it is.
    """

    def __init__(
        self,
        root: int,
        path: str,
        *,
        only: str | None,
        most_directories: int,
        budget: Budget,
        closed: frozenset[Identity],
        stop: threading.Event,
    ) -> None:
        self._root = root
        self._path = path
        self._only = only
        self.notifier = Notifier(most_directories, self._is_wanted)
        self._budget = budget
        self._closed = closed
        self._stop = stop
        self._node = Node(os.fstat(root))
        self._taken = 1
        self._budget.take(at_any_rate=True)
        self._kept: dict[Identity, list[_Vanished]] = {}
        # The first hints may be older than what is remembered.
        self._is_new = True
        # Whether everything beneath the root is remembered.
        self.is_complete = True

    @property
    def has_put_off(self) -> bool:
        """Whether something has vanished that is not told yet."""
        return bool(self._kept)

    def close(self) -> None:
        """Forget everything, and watch nothing."""
        self.notifier.close()
        os.close(self._root)
        self._budget.give(self._taken)

    def open(self) -> None:
        """Watch and remember what is there. Raises WatchLimit, RootGone, Stopped."""
        self._check_root()
        self.notifier.add([self._path])
        found = _Round()
        self._scan(found, self._node, "")
        self._settle(found)

    def update(self, hints: Hints) -> list[Change]:
        """What has changed where the hints say. Raises WatchLimit, RootGone, Stopped."""
        self._check_root()
        found = _Round(vanished=self._kept)
        self._kept = {}
        for directory, names in self._by_directory(hints.names).items():
            node = self._find(directory)
            if node is None:
                self._look_nowhere(found, directory, names)
            else:
                self._look(found, node, directory, names)
        changes = self._settle(found, keep=not hints.settled)
        self._is_new = False
        return changes

    def look_through(self) -> list[Change]:
        """What has changed anywhere. Raises WatchLimit, RootGone, Stopped."""
        self._check_root()
        found = _Round(vanished=self._kept)
        self._kept = {}
        directories = [item for item in self._node.walk("") if item[1].is_directory]
        for path, node in directories:
            self._scan(found, node, path)
        return self._settle(found)

    def _check_root(self) -> None:
        try:
            facts = os.lstat(self._path)
        except OSError:
            raise RootGone from None
        if not self._node.is_at(facts):
            raise RootGone

    def _by_directory(self, hinted: dict[str, Hint]) -> dict[str, dict[str, Hint]]:
        """Names by their directories, those above first."""
        prefix = self._path.rstrip("/") + "/"
        found: dict[str, dict[str, Hint]] = {}
        for path, hint in sorted(hinted.items()):
            if path.startswith(prefix):
                directory, _, name = path.removeprefix(prefix).rpartition("/")
                if name and (self._only is None or (directory, name) == ("", self._only)):
                    found.setdefault(directory, {})[name] = hint
        return found

    def _find(self, path: str) -> Node | None:
        """The directory with this path."""
        node = self._node
        for name in filter(None, path.split("/")):
            child = (node.children or {}).get(name)
            if child is None or child.children is None:
                return None
            node = child
        return node

    def _open(self, node: Node, path: str) -> int | None:
        """A descriptor of a directory, if it still is what it was."""
        try:
            descriptor = os.open(path or ".", _OPEN, dir_fd=self._root)
        except OSError:
            return None
        if node.is_at(os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        return None

    def _look(self, found: _Round, node: Node, path: str, names: dict[str, Hint]) -> None:
        """Compare some names of a directory."""
        children = node.children or {}
        if len(names) > max(_MANY, len(children) // 2) and self._only is None:
            self._scan(found, node, path, names)
            return
        descriptor = self._open(node, path)
        if descriptor is None:
            return
        try:
            for name, hint in names.items():
                facts = None
                with contextlib.suppress(OSError):
                    facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                self._compare(found, node, path, name, facts, hint)
        finally:
            os.close(descriptor)

    def _look_nowhere(self, found: _Round, path: str, names: dict[str, Hint]) -> None:
        """Tell of names in a directory that has gone, of which they are not remembered."""
        if not self.is_complete:
            for name, hint in names.items():
                if hint & Hint.DELETED:
                    found.deleted.append(Change(Event.DELETED, join(path, name), False))

    def _scan(
        self, found: _Round, node: Node, path: str, names: dict[str, Hint] | None = None
    ) -> None:
        """Compare all names of a directory."""
        descriptor = self._open(node, path)
        if descriptor is None:
            return
        hinted = names or {}
        seen = set()
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if self._stop.is_set():
                        raise Stopped
                    name = entry.name
                    if self._only not in (None, name):
                        continue
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    seen.add(name)
                    self._compare(found, node, path, name, facts, hinted.get(name, Hint(0)))
        finally:
            os.close(descriptor)
        for name in dict.fromkeys((*(node.children or ()), *hinted)):
            if name not in seen:
                self._compare(found, node, path, name, None, hinted.get(name, Hint(0)))

    def _compare(
        self,
        found: _Round,
        parent: Node,
        directory: str,
        name: str,
        facts: os.stat_result | None,
        hint: Hint,
    ) -> None:
        """Note what has become of a name; `facts` are None if it is not there."""
        children = parent.children
        if children is None or (facts and (facts.st_dev, facts.st_ino) in self._closed):
            return
        path = join(directory, name)
        node = children.get(name)
        if facts is None:
            if node is not None:
                del children[name]
                found.vanish(path, node)
            elif parent.partial and hint & Hint.DELETED:
                found.deleted.append(Change(Event.DELETED, path, False))
        elif node is None:
            is_directory = stat.S_ISDIR(facts.st_mode)
            if not parent.partial or is_directory or hint & Hint.ADDED:
                found.appeared.append(_Appeared(parent, path, name, facts))
            elif hint:
                found.modified.append(Change(Event.MODIFIED, path, False))
        elif not node.is_at(facts):
            del children[name]
            found.vanish(path, node)
            found.appeared.append(_Appeared(parent, path, name, facts))
        else:
            self._compare_content(found, path, node, facts, hint)

    def _compare_content(
        self, found: _Round, path: str, node: Node, facts: os.stat_result, hint: Hint
    ) -> None:
        before, node.stamp, node.mtime = node.stamp, stamp_of(facts), facts.st_mtime_ns
        if self._is_new and hint & Hint.ADDED:
            # Made while the tree was looked at for the first time.
            found.arrived[path] = Change(Event.CREATED, path, node.is_directory)
        elif before != node.stamp or (hint & Hint.MODIFIED and not node.is_directory):
            found.modified.append(Change(Event.MODIFIED, path, node.is_directory))
        if node.is_directory and hint & Hint.ADDED:
            # It was away: it and what is beneath it are no longer watched.
            self._enter(found, [(path, node)])

    def _settle(self, found: _Round, *, keep: bool = False) -> list[Change]:
        """Match what has appeared with what has vanished, as long as there is more to see."""
        while found.appeared:
            appeared, found.appeared = found.appeared, []
            entered = [item for place in appeared if (item := self._adopt(found, place))]
            self._enter(found, entered)
        entries = [entry for same in found.vanished.values() for entry in same]
        if keep:
            entries = self._keep(found, entries)
        overwritten, deleted = self._bury(found, entries)
        arrived, late = self._in_order(found.arrived.values())
        return [*overwritten, *arrived, *deleted, *late, *found.modified]

    @staticmethod
    def _in_order(arrived: Iterable[Change]) -> tuple[list[Change], list[Change]]:
        """What can be told as it was found; and what is where something else was moved away."""
        left = {change.old_path for change in arrived if change.old_path is not None}
        first: list[Change] = []
        late: list[Change] = []
        for change in arrived:
            is_late = change.event is Event.CREATED and left and any_above(change.path, left)
            (late if is_late else first).append(change)
        return first, late

    def _adopt(self, found: _Round, place: _Appeared) -> tuple[str, Node] | None:
        """Remember what has appeared; a directory to be entered is returned with its path."""
        children = place.parent.children
        if children is None or place.name in children:
            return None
        path, node = place.path, Node(place.facts)
        old = self._match(found, path, node)
        if old is not None:
            if old.path != old.top and old.parent is not None and old.parent.children:
                old.parent.children.pop(old.path.rpartition("/")[2], None)
            found.arrived[path] = Change(Event.RENAMED, path, node.is_directory, old.path)
            children[place.name] = node = old.node
        else:
            found.arrived[path] = Change(Event.CREATED, path, node.is_directory)
            if self._budget.take(at_any_rate=node.is_directory):
                self._taken += 1
                children[place.name] = node
            else:
                place.parent.partial, self.is_complete = True, False
        return (path, node) if node.is_directory and self._only is None else None

    def _match(self, found: _Round, path: str, node: Node) -> _Vanished | None:
        """What has vanished and is this; the number of an inode alone may be used again."""
        entries = found.vanished.get(node.identity, [])
        for index, entry in enumerate(entries):
            old = entry.node
            if old.is_directory != node.is_directory or old.stamp != node.stamp:
                continue
            if old.mtime == node.mtime or self._shares(path, old):
                del entries[index]
                # What is beneath it has gone with it.
                for below, child in old.walk(entry.path):
                    same = found.vanished.get(child.identity, [])
                    same[:] = [other for other in same if other.path != below]
                return entry
        return None

    def _shares(self, path: str, old: Node) -> bool:
        """Whether the directory at `path` holds something that the old one held."""
        descriptor = self._open(old, path)
        if descriptor is None:
            return False
        try:
            for name, child in itertools.islice((old.children or {}).items(), _SAMPLE):
                with contextlib.suppress(OSError):
                    if child.is_at(os.stat(name, dir_fd=descriptor, follow_symlinks=False)):
                        return True
        finally:
            os.close(descriptor)
        return False

    def _enter(self, found: _Round, directories: list[tuple[str, Node]]) -> None:
        """Watch directories and all that is known beneath them, then see what is in them."""
        every = [
            (below, child)
            for path, node in directories
            for below, child in node.walk(path)
            if child.is_directory
        ]
        self.notifier.add(self._absolute(path) for path, _ in every)
        for path, node in every:
            self._scan(found, node, path)

    def _absolute(self, path: str) -> str:
        return join(self._path.rstrip("/"), path) if path else self._path

    def _is_wanted(self, path: str) -> bool:
        """Whether a directory is known at this absolute path."""
        return self._find(path.removeprefix(self._path).strip("/")) is not None

    def _keep(self, found: _Round, entries: list[_Vanished]) -> list[_Vanished]:
        """Put off what has just vanished: the other half of a rename may be on its way."""
        late = []
        for entry in entries:
            if entry.is_late or entry.top in found.arrived:
                late.append(entry)
            else:
                entry.is_late = True
                self._kept.setdefault(entry.node.identity, []).append(entry)
        return late

    def _bury(self, found: _Round, entries: list[_Vanished]) -> tuple[list[Change], list[Change]]:
        """Tell what is gone: what made room for something else, and the rest."""
        overwritten: dict[str, Change] = {}
        deleted: dict[str, Change] = {}
        for change in found.deleted:
            is_covered = any_above(change.path, found.arrived)
            (overwritten if is_covered else deleted)[change.path] = change
        for entry in entries:
            path, is_directory = entry.path, entry.node.is_directory
            told = Change(Event.DELETED, path, is_directory)
            successor = found.arrived.get(path)
            if successor is not None and not (is_directory or successor.is_directory):
                if successor.event is Event.CREATED:
                    del found.arrived[path]
                    found.modified.append(Change(Event.MODIFIED, path, False))
            elif entry.top in found.arrived:
                overwritten[path] = told
            else:
                deleted[path] = told
        self._budget.give(len(entries))
        self._taken -= len(entries)
        return upwards(overwritten.values()), upwards(deleted.values())
