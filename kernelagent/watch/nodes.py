"""What is remembered of a watched tree: directories, and the names in them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# After so many steps others get a turn with the interpreter's lock: the event loop must not wait.
_STEPS = 256


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


class Directory:
    """A directory: its names, each with the directory that it is, or None for anything else."""

    __slots__ = ("children", "entered", "is_first", "name", "parent", "partial", "rights", "watch")

    def __init__(self, name: str, parent: Directory | None, rights: int = 0) -> None:
        self.name = name
        self.parent = parent
        self.children: dict[str, Directory | None] = {}
        # Whether there are names in it that are not remembered.
        self.partial = False
        # Stands for mode, user and group.
        self.rights = rights
        # The number of its watch, if it has one; and the one with which its names were seen.
        self.watch: int | None = None
        self.entered: int | None = None
        # Whether it was there when the tree was looked at for the first time.
        self.is_first = False

    @property
    def path(self) -> str:
        """Where a client knows it: relative to the root, whose own path is empty."""
        names = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/".join(reversed(names))

    def is_within(self, other: Directory) -> bool:
        """Whether it is the other one, or somewhere in it."""
        node: Directory | None = self
        while node is not None and node is not other:
            node = node.parent
        return node is other

    def walk(self, path: str) -> Iterator[tuple[str, Directory | None]]:
        """What is in it at any depth, with paths if its own is `path`; directories come first."""
        todo = [(path, self)]
        while todo:
            above, node = todo.pop()
            for name, child in list(node.children.items()):
                below = join(above, name)
                yield below, child
                if child is not None:
                    todo.append((below, child))


def rights_of(facts: os.stat_result) -> int:
    """A number that differs if mode, user or group do."""
    return hash((facts.st_mode, facts.st_uid, facts.st_gid))


def join(directory: str, name: str) -> str:
    """Paths are relative; the watched directory's is empty."""
    return f"{directory}/{name}" if directory else name


def paced(items: Iterable[T]) -> Iterator[T]:
    """The items, with pauses in which other threads can run."""
    for number, item in enumerate(items, 1):
        if number % _STEPS == 0:
            time.sleep(0)
        yield item
