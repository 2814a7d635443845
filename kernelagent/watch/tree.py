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

from kernelagent.files.fs.paths import TEMPORARY_PREFIX
from kernelagent.watch.changes import Change
from kernelagent.watch.nodes import Budget, Identity, Node, join, paced, stamp_of
from kernelagent.watch.notifier import Hint, Hints, Notifier, is_text
from kernelagent.watch.round import Appeared, Round, Vanished

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# From so many hinted names on, and half of the directory, it is read as a whole.
_MANY = 64
# So many names of a directory are looked for to see whether it is the same.
_SAMPLE = 8


class RootGone(Exception):
    """What is watched is no longer where it was."""


class Stopped(Exception):
    """The work is no longer wanted."""


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
        # Where the notifier finds it, which takes no name that is no UTF-8.
        self._notified = path if is_text(path) else f"/proc/self/fd/{root}/."
        self.notifier = Notifier(most_directories, self._is_wanted)
        self._budget = budget
        self._closed = closed
        self._stop = stop
        self._node = Node(os.fstat(root))
        self._taken = 1
        self._budget.take(at_any_rate=True)
        self._kept: list[Vanished] = []
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
        self.check()
        self.notifier.add([self._notified])
        found = Round()
        self._scan(found, self._node, "")
        self._settle(found)

    def update(self, hints: Hints) -> list[Change]:
        """What has changed where the hints say. Raises WatchLimit, RootGone, Stopped."""
        self.check()
        found = Round(self._kept)
        self._kept = []
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
        self.check()
        found = Round(self._kept)
        self._kept = []
        directories = [item for item in self._node.walk("") if item[1].is_directory]
        for path, node in directories:
            self._scan(found, node, path)
        return self._settle(found)

    def check(self) -> None:
        """See that the root is where it was: the system does not always say. Raises RootGone."""
        try:
            facts = os.lstat(self._path)
        except OSError:
            raise RootGone from None
        if not self._node.is_at(facts):
            raise RootGone

    def _by_directory(self, hinted: dict[str, Hint]) -> dict[str, dict[str, Hint]]:
        """Names by their directories, those above first."""
        prefix = self._notified.rstrip("/") + "/"
        found: dict[str, dict[str, Hint]] = {}
        for path in paced(sorted(hinted)):
            hint = hinted[path]
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

    def _open(self, node: Node, path: str, *, learn: bool = True) -> int | None:
        """A descriptor of a directory to look into, if it still is what it was."""
        try:
            descriptor = os.open(path or ".", _OPEN, dir_fd=self._root)
        except OSError:
            return None
        facts = os.fstat(descriptor)
        if not node.is_at(facts):
            os.close(descriptor)
            return None
        if learn:
            node.mtime = facts.st_mtime_ns
        return descriptor

    def _look(self, found: Round, node: Node, path: str, names: dict[str, Hint]) -> None:
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

    def _look_nowhere(self, found: Round, path: str, names: dict[str, Hint]) -> None:
        """Tell of names in a directory that has gone, of which they are not remembered."""
        if not self.is_complete:
            for name, hint in names.items():
                if hint & Hint.DELETED:
                    found.forget(join(path, name))

    def _scan(
        self, found: Round, node: Node, path: str, names: dict[str, Hint] | None = None
    ) -> None:
        """Compare all names of a directory."""
        if self._find(path) is not node:
            # It was away when the directory above was looked at, which is told.
            return
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
        found: Round,
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
        if name.startswith(TEMPORARY_PREFIX):
            # It is told once it has its own name.
            return
        path = join(directory, name)
        node = children.get(name)
        if facts is None:
            if node is not None:
                del children[name]
                found.vanish(path, node)
            elif parent.partial and hint & Hint.DELETED:
                found.forget(path)
        elif node is None:
            is_directory = stat.S_ISDIR(facts.st_mode)
            if not parent.partial or is_directory or hint & Hint.ADDED:
                found.appear(parent, path, name, facts)
            elif hint:
                found.modify(path, is_directory=False)
        elif not node.is_at(facts):
            del children[name]
            found.vanish(path, node)
            found.appear(parent, path, name, facts)
        elif self._is_new and Hint.ADDED | Hint.DELETED in hint:
            # Which came first is not known: what was there is told as gone, and all of it anew.
            del children[name]
            found.vanish(path, node)
            found.appear(parent, path, name, facts, anew=True)
        else:
            self._compare_content(found, path, node, facts, hint)

    def _compare_content(
        self, found: Round, path: str, node: Node, facts: os.stat_result, hint: Hint
    ) -> None:
        before, node.stamp, node.mtime = node.stamp, stamp_of(facts), facts.st_mtime_ns
        if self._is_new and hint & Hint.ADDED:
            # Made while the tree was looked at for the first time, with all that was in it then.
            for below, child in paced(node.walk(path)):
                found.create(below, is_directory=child.is_directory)
        elif before != node.stamp or (hint & Hint.MODIFIED and not node.is_directory):
            found.modify(path, is_directory=node.is_directory)
        if node.is_directory and hint & Hint.ADDED:
            # It was away: it and what is beneath it are no longer watched.
            self._enter(found, [(path, node)])

    def _settle(self, found: Round, *, keep: bool = False) -> list[Change]:
        """Adopt what has appeared, as long as there is more to see; what is to be told."""
        while found.appeared:
            appeared, found.appeared = found.appeared, []
            entered = [item for one in paced(appeared) if (item := self._adopt(found, one))]
            self._enter(found, entered)
        changes, self._kept, forgotten = found.settle(put_off=keep)
        self._budget.give(forgotten)
        self._taken -= forgotten
        return changes

    def _adopt(self, found: Round, one: Appeared) -> tuple[str, Node] | None:
        """Remember what has appeared; a directory to be entered is returned with its path."""
        children = one.parent.children
        if children is None or one.name in children:
            return None
        if self._find(one.path.rpartition("/")[0]) is not one.parent:
            # The directory has gone since. Where it is now, it is looked at again.
            return None
        path, node = one.path, Node(one.facts)
        gone = None
        if not one.anew:
            gone = found.claim(path, node, lambda old: self._shares(path, old))
        if gone is not None:
            children[one.name] = node = gone
        else:
            found.create(path, is_directory=node.is_directory)
            if self._budget.take(at_any_rate=node.is_directory):
                self._taken += 1
                children[one.name] = node
            else:
                one.parent.partial, self.is_complete = True, False
        return (path, node) if node.is_directory and self._only is None else None

    def _shares(self, path: str, old: Node) -> bool:
        """Whether the directory at `path` holds something that the old one held."""
        descriptor = self._open(old, path, learn=False)
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

    def _enter(self, found: Round, directories: list[tuple[str, Node]]) -> None:
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
        return join(self._notified.rstrip("/"), path) if path else self._notified

    def _is_wanted(self, path: str) -> bool:
        """Whether a directory is known at this absolute path."""
        return self._find(path.removeprefix(self._notified).strip("/")) is not None
