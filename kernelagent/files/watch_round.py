"""One look at a watched tree: what has vanished, what has appeared, and what that means."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from kernelagent.files.watch_changes import Change, Event
from kernelagent.files.watch_nodes import Identity, Node, paced


@dataclass(slots=True)
class Appeared:
    """A name that was not there, or was something else."""

    parent: Node
    path: str
    name: str
    facts: os.stat_result


@dataclass(slots=True, eq=False)
class Vanished:
    """A node that is not where it was; `parent` is known if that has vanished with it."""

    path: str
    node: Node
    # The path of what vanished with it: its own, or that of a directory above.
    top: str
    parent: Node | None = None
    # It was put off by the round before.
    is_late: bool = False
    # It was in something that had arrived: `path` is what a client calls it only from then on.
    is_inner: bool = False


class Round:
    """What a look has found so far, and what of it is to be told.

    A client that takes the changes one after the other comes to what is there.
    """

    def __init__(self, put_off: Iterable[Vanished] = ()) -> None:
        self.appeared: list[Appeared] = []
        self.modified: list[Change] = []
        # What is at a path now and was not: created or renamed.
        self._arrived: dict[str, Change] = {}
        # Names that were not remembered.
        self._forgotten: list[str] = []
        self._appeared_paths: set[str] = set()
        self._tops: dict[Vanished, None] = {}
        # What has vanished, by what it is; what is beneath a top is in here if it was needed.
        self._index: dict[Identity, list[Vanished]] = {}
        self._unopened: list[Vanished] = []
        for top in put_off:
            self._add(top)

    def appear(self, parent: Node, path: str, name: str, facts: os.stat_result) -> None:
        """Something is at a path; it is to be adopted."""
        self.appeared.append(Appeared(parent, path, name, facts))
        self._appeared_paths.add(path)

    def vanish(self, path: str, node: Node) -> None:
        """Something is gone from its place, with all beneath it."""
        is_inner = any_above(path, self._arrived)
        self._add(Vanished(path, node, path, is_inner=is_inner))

    def forget(self, path: str) -> None:
        """Something is gone that was not remembered."""
        self._forgotten.append(path)

    def modify(self, path: str, *, is_directory: bool) -> None:
        """The content or the rights of something are others."""
        self.modified.append(Change(Event.MODIFIED, path, is_directory))

    def create(self, path: str, *, is_directory: bool) -> None:
        """What has appeared is new."""
        self._arrived[path] = Change(Event.CREATED, path, is_directory)

    def rename(self, path: str, gone: Vanished) -> None:
        """What has appeared is what was claimed."""
        if gone.parent is not None and gone.parent.children:
            gone.parent.children.pop(gone.path.rpartition("/")[2], None)
        self._arrived[path] = Change(Event.RENAMED, path, gone.node.is_directory, gone.path)

    def claim(self, path: str, node: Node, is_same: Callable[[Node], bool]) -> Vanished | None:
        """What has vanished and is this node at `path`, which must be told as renamed.

        The number of an inode may be used again at once: `is_same` has the last word.
        """
        gone = self._find(path, node, is_same)
        if gone is None and self._unopened:
            self._open_tops()
            gone = self._find(path, node, is_same)
        if gone is not None:
            self._remove(gone)
        return gone

    def settle(self, *, put_off: bool) -> tuple[list[Change], list[Vanished], int]:
        """What is to be told; what is put off if there is more to come; how many are forgotten."""
        kept: list[Vanished] = []
        if put_off:
            kept = [top for top in self._tops if self._may_wait(top)]
            for top in kept:
                top.is_late = True
                del self._tops[top]
        before: dict[str, Change] = {}
        after: dict[str, Change] = {}
        for path in self._forgotten:
            told = before if any_above(path, self._arrived) else after
            told[path] = Change(Event.DELETED, path, is_directory=False)
        count = 0
        for top in self._tops:
            for path, node in paced(top.node.walk(top.path)):
                count += 1
                self._bury(top, path, node, before, after)
        changes = [*_upwards(before), *self._in_order(), *_upwards(after), *self.modified]
        return changes, kept, count

    def _bury(
        self,
        top: Vanished,
        path: str,
        node: Node,
        before: dict[str, Change],
        after: dict[str, Change],
    ) -> None:
        successor = self._arrived.get(path)
        deleted = Change(Event.DELETED, path, node.is_directory)
        if top.is_late:
            before[path] = deleted
        elif successor and not (node.is_directory or successor.is_directory):
            if successor.event is Event.CREATED:
                del self._arrived[path]
                self.modify(path, is_directory=False)
        elif successor and top.is_inner:
            # Told after what it arrived in, it would be taken for the end of its successor.
            if node.is_directory != successor.is_directory:
                self.modify(path, is_directory=successor.is_directory)
        elif not top.is_inner and any_above(top.path, self._arrived):
            before[path] = deleted
        else:
            after[path] = deleted

    def _may_wait(self, top: Vanished) -> bool:
        return not top.is_late and not any_above(top.path, self._arrived)

    def _add(self, top: Vanished) -> None:
        self._tops[top] = None
        self._index.setdefault(top.node.identity, []).append(top)
        if top.node.children:
            self._unopened.append(top)

    def _find(self, path: str, node: Node, is_same: Callable[[Node], bool]) -> Vanished | None:
        for gone in self._index.get(node.identity, ()):
            old = gone.node
            if old.is_directory != node.is_directory or old.stamp != node.stamp:
                continue
            if self._is_tangled(path, gone):
                continue
            if old.mtime == node.mtime or is_same(old):
                return gone
        return None

    def _is_tangled(self, path: str, gone: Vanished) -> bool:
        """Whether no order of renames would tell this one rightly."""
        if gone.path != gone.top:
            # A client takes what it knows by that path for what is there now.
            return gone.top in self._appeared_paths
        place: str | None = gone.path
        while place is not None:
            # Two have changed places, or more in a circle.
            if place == path:
                return True
            arrival = self._arrived.get(place)
            place = arrival.old_path if arrival else None
        return False

    def _open_tops(self) -> None:
        """Index what is beneath the tops."""
        for top in self._unopened:
            if top not in self._tops:
                continue
            parents: dict[str, Node] = {}
            for path, node in paced(top.node.walk(top.path)):
                parents[path] = node
                if node is not top.node:
                    parent = parents[path.rpartition("/")[0]]
                    gone = Vanished(path, node, top.path, parent, top.is_late)
                    self._index.setdefault(node.identity, []).append(gone)
        self._unopened = []

    def _remove(self, gone: Vanished) -> None:
        """Something has not vanished after all, nor what is beneath it."""
        self._tops.pop(gone, None)
        for path, node in paced(gone.node.walk(gone.path)):
            same = self._index.get(node.identity, [])
            same[:] = [other for other in same if other.path != path]

    def _in_order(self) -> list[Change]:
        """What has arrived: directories before what is in them, room made before it is taken."""
        left = {change.old_path: change.path for change in self._arrived.values()}
        left.pop(None, None)
        if not left:
            return list(self._arrived.values())
        order: dict[str, Change] = {}
        for path in paced(self._arrived):
            stack = [path]
            waiting = {path}
            while stack:
                needed = self._needed(stack[-1], left) - waiting - order.keys()
                stack.extend(needed)
                waiting |= needed
                if not needed:
                    done = stack.pop()
                    order[done] = self._arrived[done]
        return list(order.values())

    def _needed(self, path: str, left: dict[str | None, str]) -> set[str]:
        """The arrivals that must be told before the one at `path`."""
        needed = set()
        above = path.rpartition("/")[0]
        if above in self._arrived:
            needed.add(above)
        place = path
        while place:
            if place in left:
                needed.add(left[place])
            place = place.rpartition("/")[0]
        needed.discard(path)
        return needed


def any_above(path: str, paths: Container[str]) -> bool:
    """Whether a path, or a directory above it, is one of `paths`."""
    while path:
        if path in paths:
            return True
        path = path.rpartition("/")[0]
    return False


def _upwards(changes: dict[str, Change]) -> list[Change]:
    """What is in a directory before the directory."""
    return [changes[path] for path in sorted(changes, reverse=True)]
