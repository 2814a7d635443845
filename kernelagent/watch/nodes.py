"""What is remembered of a watched tree: one node for each name."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Identity = tuple[int, int]
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


def paced(items: Iterable[T]) -> Iterator[T]:
    """The items, with pauses in which other threads can run."""
    for number, item in enumerate(items, 1):
        if number % _STEPS == 0:
            time.sleep(0)
        yield item
