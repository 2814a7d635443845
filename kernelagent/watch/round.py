"""One look at a watched tree: what has vanished, what has appeared, and what that means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kernelagent.watch.changes import Change, Event
from kernelagent.watch.nodes import Identity, Node, paced
from kernelagent.watch.order import Order, Place


@dataclass(slots=True)
class Appeared:
    """A name that was not there, or was something else."""

    parent: Node
    path: str
    name: str
    facts: os.stat_result
    # It is told as new, also if it is what has vanished from there.
    anew: bool = False


@dataclass(slots=True, eq=False)
class Vanished:
    """A node that is not where it was; `parent` is known if that has vanished with it."""

    place: Place
    node: Node
    parent: Node | None = None
    # It was put off by the round before.
    is_late: bool = False


class Round:
    """What a look has found so far, and what of it is to be told.

    A client that takes the changes one after the other comes to what is there.
    """

    def __init__(self, put_off: Iterable[Vanished] = ()) -> None:
        self.appeared: list[Appeared] = []
        self.modified: list[Change] = []
        self._order = Order()
        self._tops: dict[Place, Vanished] = {}
        # What has vanished, by what it is; what is beneath a top is in here if it was needed.
        self._index: dict[Identity, list[Vanished]] = {}
        self._unopened: list[Vanished] = []
        for top in put_off:
            self._add(top)

    def appear(
        self, parent: Node, path: str, name: str, facts: os.stat_result, *, anew: bool = False
    ) -> None:
        """Something is at a path; it is to be adopted."""
        self.appeared.append(Appeared(parent, path, name, facts, anew))

    def vanish(self, path: str, node: Node) -> None:
        """Something is gone from its place, with all beneath it."""
        self._add(Vanished(self._order.place(path), node))

    def forget(self, path: str) -> None:
        """Something is gone that was not remembered."""
        place = self._order.place(path)
        if not self._remembers(place):
            self._order.delete(place)

    def modify(self, path: str, *, is_directory: bool) -> None:
        """The content or the rights of something are others."""
        self.modified.append(Change(Event.MODIFIED, path, is_directory))

    def create(self, path: str, *, is_directory: bool) -> None:
        """What has appeared is new."""
        self._order.create(path, is_directory=is_directory)

    def claim(self, path: str, node: Node, is_same: Callable[[Node], bool]) -> Node | None:
        """What has vanished and is this node at `path`, which is told as renamed.

        The number of an inode may be used again at once: `is_same` has the last word.
        """
        gone = self._find(path, node, is_same)
        if gone is None and self._unopened:
            self._open_tops()
            gone = self._find(path, node, is_same)
        if gone is None:
            return None
        self._remove(gone)
        return gone.node

    def settle(self, *, put_off: bool) -> tuple[list[Change], list[Vanished], int]:
        """What is to be told; what is put off if there is more to come; how many are forgotten."""
        kept: list[Vanished] = []
        if put_off:
            tops = self._tops.values()
            kept = [top for top in tops if not top.is_late and self._order.is_free(top.place)]
            for top in kept:
                top.is_late = True
                self._order.keep(top.place)
                del self._tops[top.place]
        replaced = {place.path for place, top in self._tops.items() if self._is_replaced(top)}
        late = {place for place, top in self._tops.items() if top.is_late}
        changes: list[Change] = []
        for step in paced(self._order.steps(late)):
            if isinstance(step, Place):
                if not (step in self._tops and self._is_replaced(self._tops[step])):
                    changes += self._deleted(step)
                continue
            change = self._order.arrived[step]
            if step in replaced and change.event is Event.CREATED:
                self.modify(step, is_directory=False)
            else:
                changes.append(change)
        count = sum(1 for top in self._tops.values() for _ in paced(top.node.walk("")))
        return [*changes, *self.modified], kept, count

    def _is_replaced(self, top: Vanished) -> bool:
        """Whether a file is where another one was."""
        if top.is_late or top.node.is_directory or not self._order.is_replaced(top.place):
            return False
        return not self._order.arrived[top.place.path].is_directory

    def _deleted(self, place: Place) -> list[Change]:
        """What is told of something that is gone: what is in a directory before the directory."""
        top = self._tops.get(place)
        if top is None:
            return [Change(Event.DELETED, place.path, is_directory=False)]
        found = [
            Change(Event.DELETED, path, node.is_directory)
            for path, node in paced(top.node.walk(place.path))
            if path == place.path or not self._order.is_told(Place(place.base, path))
        ]
        return sorted(found, key=lambda change: change.path, reverse=True)

    def _add(self, top: Vanished) -> None:
        self._tops[top.place] = top
        self._order.delete(top.place)
        self._index.setdefault(top.node.identity, []).append(top)
        if top.node.children:
            self._unopened.append(top)

    def _find(self, path: str, node: Node, is_same: Callable[[Node], bool]) -> Vanished | None:
        for gone in self._index.get(node.identity, ()):
            old = gone.node
            if old.is_directory != node.is_directory or old.stamp != node.stamp:
                continue
            if old.mtime != node.mtime and not is_same(old):
                continue
            if self._order.move(path, gone.place, is_directory=node.is_directory):
                return gone
        return None

    def _open_tops(self) -> None:
        """Index what is beneath the tops."""
        for top in self._unopened:
            if top.place not in self._tops:
                continue
            parents: dict[str, Node] = {}
            for path, node in paced(top.node.walk(top.place.path)):
                parents[path] = node
                if node is not top.node:
                    parent = parents[path.rpartition("/")[0]]
                    gone = Vanished(Place(top.place.base, path), node, parent)
                    self._index.setdefault(node.identity, []).append(gone)
        self._unopened = []

    def _remove(self, gone: Vanished) -> None:
        """Something has not vanished after all, nor what is beneath it."""
        self._tops.pop(gone.place, None)
        if gone.parent is not None and gone.parent.children:
            gone.parent.children.pop(gone.place.path.rpartition("/")[2], None)
        for path, node in paced(gone.node.walk(gone.place.path)):
            place = Place(gone.place.base, path)
            same = self._index.get(node.identity, [])
            same[:] = [other for other in same if other.place != place]

    def _remembers(self, place: Place) -> bool:
        """Whether something has vanished with a directory that has."""
        above, names = place.path, []
        while above:
            above, _, name = above.rpartition("/")
            names.append(name)
            if top := self._tops.get(Place(place.base, above)):
                node: Node | None = top.node
                while node and names:
                    node = (node.children or {}).get(names.pop())
                return node is not None
        return False
