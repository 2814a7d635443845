"""The picture of a watched tree: what a client was told is there, kept up by what inotify says.

Everything is reached by descriptor from the watched directory, and no symbolic link is followed.
Which directory it is that has been opened, the number of its watch tells: another one by the same
name has another number.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable

from kernelagent.errors import WatchLimit
from kernelagent.files.fs.paths import TEMPORARY_PREFIX, Identity
from kernelagent.watch.batch import Batch
from kernelagent.watch.changes import Change
from kernelagent.watch.inotify import Inotify, Mask, Said, parse
from kernelagent.watch.nodes import Budget, Directory, join, paced, rights_of

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NAMES = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
_EVERYTHING = _NAMES | Mask.MODIFY | Mask.ATTRIB
_ITSELF = Mask.DELETE_SELF | Mask.MOVE_SELF
_ARRIVALS = Mask.CREATE | Mask.MOVED_TO
_DEPARTURES = Mask.DELETE | Mask.MOVED_FROM
# No watch has this number.
_NONE = 0
_MOST_ROUNDS = 20


class Stopped(Exception):
    """The work is no longer wanted."""


class Tree:
    """A directory with all beneath it, or one file in a directory; used by one thread at a time.

    `root` is an open directory, and is closed with the tree; `path` is where it is. Its `inotify`
    says when there is something to `update`.
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
        """Raises WatchLimit; then `root` is still the caller's."""
        self.inotify = Inotify()
        self._root = root
        self._path = path
        self._only = only
        self._most_directories = most_directories
        self._budget = budget
        self._closed = closed
        self._stop = stop
        self._identity = Identity.of(os.fstat(root))
        self._node = Directory("", None)
        self._watched: dict[int, Directory] = {}
        # Directories of which it is not sure that what is watched and known is what is there.
        self._unsure: dict[Directory, None] = {}
        # Those that could not be opened.
        self._missed: dict[Directory, None] = {}
        self._taken = 1
        self._budget.take(at_any_rate=True)
        # What was said while it was opened may be older than what is known; and names of which
        # something was said since: of them that holds.
        self._early: list[bytes] = []
        self._is_new = False
        self._met: set[tuple[Directory, str]] = set()
        # What was said, from a half of a rename on whose other half may still come.
        self._held: list[Said] = []
        self._is_put_off = False
        self._last_rename: tuple[Directory, str, Directory, str] | None = None

    @property
    def holds_back(self) -> bool:
        """Whether it waits for the other half of a rename."""
        return bool(self._held)

    def close(self) -> None:
        """Forget everything, and watch nothing."""
        self.inotify.close()
        os.close(self._root)
        self._budget.give(self._taken)

    def open(self) -> None:
        """Watch and remember what is there; `update` has what changed meanwhile.

        Raises WatchLimit, Stopped.
        """
        self._enter(self._node, Batch())
        self._watch_above()
        for node in paced(self._watched.values()):
            node.is_first = True
        self._early = list(iter(self.inotify.read, b""))
        self._is_new = True

    @property
    def is_gone(self) -> bool:
        """Whether the root is no longer where it was."""
        try:
            return Identity.of(os.lstat(self._path)) != self._identity
        except OSError:
            return True

    def update(self, data: Iterable[bytes]) -> tuple[list[Change], bool]:
        """What has changed as the system says, and whether it has lost something.

        What may be half a rename waits for the next time. Raises WatchLimit, Stopped.
        """
        old = len(self._held)
        pieces = [*self._early, *data]
        said = [*self._held, *(item for piece in pieces for item in parse(piece))]
        self._early, self._held = [], []
        arrivals = {item.cookie: n for n, item in enumerate(said) if item.mask & Mask.MOVED_TO}
        batch, lost = Batch(), False
        done: set[int] = set()
        for number, item in enumerate(paced(said)):
            if self._stop.is_set():
                raise Stopped
            if number in done:
                continue
            other = None
            if item.mask & Mask.MOVED_FROM:
                place = arrivals.get(item.cookie)
                if place is not None:
                    other = said[place]
                    done.add(place)
                elif number >= old and not self._is_new:
                    self._held = [
                        one for n, one in enumerate(said) if n >= number and n not in done
                    ]
                    break
            lost = lost or bool(item.mask & Mask.Q_OVERFLOW)
            self._take(item, other, batch)
            if self._is_new:
                self._meet(item, *filter(None, [other]))
        if lost:
            self._unsure |= dict.fromkeys(self._watched.values())
        # What is held back is older than what would be seen.
        self._is_put_off = bool(self._held) and not self._is_put_off
        if not self._is_put_off:
            self._make_sure(batch)
        self._is_new = False
        self._met.clear()
        return batch.take(), lost

    def look_through(self) -> list[Change]:
        """What is not as it is known, anywhere. Raises WatchLimit, Stopped."""
        batch = Batch()
        self._unsure |= dict.fromkeys(self._watched.values())
        self._make_sure(batch)
        return batch.take()

    # What is said.

    def _meet(self, *said: Said) -> None:
        for item in said:
            if node := self._watched.get(item.watch):
                self._met.add((node, item.name))

    def _take(self, item: Said, other: Said | None, batch: Batch) -> None:
        node = self._watched.get(item.watch)
        if item.mask & Mask.IGNORED and node is not None:
            # It has gone, or it is another one than was thought.
            del self._watched[item.watch]
            node.watch = None
            self._unsure[node] = None
        if not item.name:
            return
        is_directory = bool(item.mask & Mask.ISDIR)
        source = node if self._is_shown(item.name) else None
        target = None
        if other is not None and self._is_shown(other.name):
            target = self._watched.get(other.watch)
        if other is not None and source is not None and target is not None:
            self._rename((source, item.name), (target, other.name), is_directory, batch)
        elif other is not None and target is not None:
            self._arrive(target, other.name, is_directory, batch, is_moved=True)
        elif source is None:
            return
        elif item.mask & _DEPARTURES:
            self._depart(source, item.name, is_directory, batch)
        elif item.mask & _ARRIVALS:
            is_moved = bool(item.mask & Mask.MOVED_TO)
            self._arrive(source, item.name, is_directory, batch, is_moved=is_moved)
        else:
            self._change(source, item.name, batch)

    def _is_shown(self, name: str) -> bool:
        """Whether clients are told of a name; a temporary one is told once it has its own."""
        return self._only in (None, name) and not name.startswith(TEMPORARY_PREFIX)

    def _arrive(
        self, node: Directory, name: str, is_directory: bool, batch: Batch, *, is_moved: bool
    ) -> None:
        """Something has got a name."""
        path = join(node.path, name)
        if name in node.children:
            child = node.children[name]
            if (child is not None) == is_directory:
                if self._is_early(node, name):
                    # Seen when the tree was first looked at, and new to the client.
                    self._tell_created(path, child, batch)
                elif child is None and is_moved:
                    # In the place of another one, of which nothing is said.
                    batch.modify(path, is_directory=False)
                return
            self._lose(node, name, path, batch)
        self._add(node, name, path, is_directory, batch)

    def _is_early(self, node: Directory, name: str) -> bool:
        """Whether what is said of a name may be older than what is known of it."""
        return self._is_new and node.is_first and (node, name) not in self._met

    def _tell_created(self, path: str, node: Directory | None, batch: Batch) -> None:
        batch.create(path, is_directory=node is not None)
        if node is not None:
            node.is_first = False
            for below, child in paced(node.walk(path)):
                batch.create(below, is_directory=child is not None)
                if child is not None:
                    child.is_first = False

    def _depart(self, node: Directory, name: str, is_directory: bool, batch: Batch) -> None:
        """Something is no longer called so."""
        path = join(node.path, name)
        if name in node.children:
            self._lose(node, name, path, batch)
        elif self._is_early(node, name) or (node.partial and not is_directory):
            batch.delete(path, is_directory=is_directory)

    def _change(self, node: Directory, name: str, batch: Batch) -> None:
        """Content, times or rights of something are others."""
        child = node.children.get(name)
        path = join(node.path, name)
        if child is None:
            if name in node.children or node.partial:
                batch.modify(path, is_directory=False)
            return
        facts = self._facts(child)
        if facts is not None and rights_of(facts) != child.rights:
            child.rights = rights_of(facts)
            batch.modify(path, is_directory=True)
            if child.watch is None:
                # Now it may be readable.
                self._unsure[child] = None

    def _rename(
        self,
        old: tuple[Directory, str],
        new: tuple[Directory, str],
        is_directory: bool,
        batch: Batch,
    ) -> None:
        """What was called so is called otherwise."""
        source, name, target, new_name = *old, *new
        # Of two that change places at once the system says two renames, one after the other.
        is_exchange = self._last_rename == (*new, *old)
        self._last_rename = (*old, *new)
        child = source.children.get(name)
        is_known = name in source.children and (child is not None) == is_directory
        if not is_known and (is_directory or not (source.partial or self._is_early(source, name))):
            # It was found where it is now, or never.
            self._depart(source, name, is_directory, batch)
            self._arrive(target, new_name, is_directory, batch, is_moved=True)
            return
        there = target.children.get(new_name)
        is_odd = child is not None and target.is_within(child)
        if is_odd or (there is not None and source.is_within(there)):
            # Something is not what it was taken for.
            self._unsure |= dict.fromkeys(self._watched.values())
            if name in source.children:
                self._lose(source, name, join(source.path, name), batch)
            return
        old_path, path = join(source.path, name), join(target.path, new_name)
        replaced = new_name in target.children
        if replaced and (is_directory or target.children[new_name] is not None):
            self._lose(target, new_name, path, batch)
            replaced = False
        batch.rename(old_path, path, is_directory=is_directory, replaced=replaced)
        if is_exchange:
            self._unsure |= {source: None, target: None}
            if not is_directory:
                batch.modify(path, is_directory=False)
        for above, gone in ((source, name), (target, new_name)):
            if gone in above.children:
                del above.children[gone]
                self._give()
        if child is not None:
            child.name, child.parent = new_name, target
            if child.watch is None:
                self._unsure[child] = None
        self._remember(target, new_name, child)

    # What is known.

    def _add(self, node: Directory, name: str, path: str, is_directory: bool, batch: Batch) -> None:
        """Remember and tell something new; what is in it is to be seen."""
        child = Directory(name, node) if is_directory else None
        if child is not None:
            facts = self._facts(child)
            if facts is not None and Identity.of(facts) in self._closed:
                return
            child.rights = rights_of(facts) if facts is not None else 0
        batch.create(path, is_directory=is_directory)
        self._remember(node, name, child)
        if child is not None and self._only is None:
            # Only once all that was said is known: by now something else may be called so.
            self._unsure[child] = None

    def _remember(self, node: Directory, name: str, child: Directory | None) -> None:
        if self._budget.take(at_any_rate=child is not None):
            self._taken += 1
            node.children[name] = child
        else:
            node.partial = True

    def _lose(self, node: Directory, name: str, path: str, batch: Batch) -> None:
        """Tell that something has gone, and forget it with all that is in it."""
        child = node.children.pop(name)
        below = list(paced(child.walk(path))) if child is not None else []
        for gone, inner in paced(sorted(below, key=lambda item: item[0], reverse=True)):
            batch.delete(gone, is_directory=inner is not None)
        batch.delete(path, is_directory=child is not None)
        for directory in (child, *(inner for _, inner in below)):
            if directory is not None:
                self._unwatch(directory)
        self._give(1 + len(below))

    def _give(self, count: int = 1) -> None:
        self._budget.give(count)
        self._taken -= count

    def _unwatch(self, node: Directory) -> None:
        if node.watch is not None:
            self.inotify.remove(node.watch)
            del self._watched[node.watch]
            node.watch = None
        # Nobody finds it any more.
        self._unsure.pop(node, None)
        node.children, node.parent = {}, None

    # What is there.

    def _make_sure(self, batch: Batch) -> None:
        """Look at what it is not sure of, until it is.

        Of what cannot be found something will be said, and so it is if directories are moved about
        all the time.
        """
        self._unsure |= self._missed
        self._missed = {}
        for _ in range(_MOST_ROUNDS):
            unsure, self._unsure = self._unsure, {}
            for node in paced(unsure):
                if node is self._node or node.parent is not None:
                    self._enter(node, batch)

    def _enter(self, node: Directory, batch: Batch) -> None:
        """Watch a directory, see what is in it, and go on with what is new in there."""
        todo = [node]
        while todo:
            node = todo.pop()
            descriptor = self._open(node, _READ)
            if descriptor is None:
                self._missed[node] = None
                continue
            mask = _EVERYTHING | (_ITSELF if node is self._node else 0)
            new: list[Directory] = []
            try:
                number = self.inotify.add(descriptor, mask)
                is_another = node.entered not in (None, number)
                if not is_another:
                    self._watch(node, number)
                    new = self._compare(node, self._list(descriptor), batch)
            except OSError:
                # Whoever owns it may close it at any moment.
                self._missed[node] = None
                continue
            finally:
                os.close(descriptor)
            if is_another:
                self._replace(node, batch)
            elif self._only is None:
                todo += new

    def _replace(self, node: Directory, batch: Batch) -> None:
        """Tell that another directory is where one was."""
        parent, name, path = node.parent, node.name, node.path
        if parent is not None:
            self._lose(parent, name, path, batch)
            self._add(parent, name, path, True, batch)

    def _watch(self, node: Directory, number: int) -> None:
        """Know a directory by the number of its watch."""
        other = self._watched.get(number)
        if other is not node:
            if other is not None:
                # It is not what it was taken for, nor was all that was told of it.
                other.watch, other.entered = None, _NONE
                self._unsure[other] = None
            if node.watch is not None:
                self.inotify.remove(node.watch)
                del self._watched[node.watch]
            node.watch = node.entered = number
            self._watched[number] = node
        if len(self._watched) > self._most_directories:
            raise WatchLimit(
                f"more than {self._most_directories} directories beneath the path are too many "
                "to watch",
                details={"limit": self._most_directories},
            )

    def _list(self, descriptor: int) -> dict[str, os.stat_result | None]:
        """The names in a directory that clients are told of; of directories their facts too."""
        found: dict[str, os.stat_result | None] = {}
        with os.scandir(descriptor) as entries:
            for entry in paced(entries):
                if self._stop.is_set():
                    raise Stopped
                facts = None
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        facts = entry.stat(follow_symlinks=False)
                is_closed = facts is not None and Identity.of(facts) in self._closed
                if self._is_shown(entry.name) and not is_closed:
                    found[entry.name] = facts
        return found

    def _compare(
        self, node: Directory, found: dict[str, os.stat_result | None], batch: Batch
    ) -> list[Directory]:
        """Make what is known of a directory what was found; its new directories."""
        path, was_partial, new = node.path, node.partial, []
        for name, child in list(node.children.items()):
            if name not in found or (child is not None) != (found[name] is not None):
                self._lose(node, name, join(path, name), batch)
        for name, facts in paced(found.items()):
            if name in node.children or (was_partial and facts is None):
                continue
            below, child = join(path, name), None
            if facts is not None:
                child = Directory(name, node, rights_of(facts))
                new.append(child)
            batch.create(below, is_directory=child is not None)
            self._remember(node, name, child)
        return new

    def _open(self, node: Directory, flags: int) -> int | None:
        """A descriptor of what is where a directory is known to be, if it is one."""
        names = []
        above: Directory | None = node
        while above is not None and above.parent is not None:
            names.append(above.name)
            above = above.parent
        descriptor = os.open(".", flags if not names else _STEP, dir_fd=self._root)
        try:
            while names:
                name = names.pop()
                below = os.open(name, _STEP if names else flags, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _facts(self, node: Directory) -> os.stat_result | None:
        descriptor = self._open(node, _STEP)
        if descriptor is None:
            return None
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _watch_above(self) -> None:
        """Have the directories above the root say if it goes; those that may be read."""
        path, mask = self._path, _ITSELF | Mask.DELETE
        while path not in ("", "/"):
            path = os.path.dirname(path)  # noqa: PTH120 - no Path: it may be long
            with contextlib.suppress(OSError, WatchLimit):
                descriptor = os.open(path or "/", _READ)
                try:
                    self.inotify.add(descriptor, mask)
                finally:
                    os.close(descriptor)
            mask = _ITSELF
