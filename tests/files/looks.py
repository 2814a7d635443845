"""Trees that are played with, and looked at where the test says: what is told of them adds up."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from kernelagent.watch.changes import Change
from kernelagent.watch.nodes import Budget
from kernelagent.watch.notifier import Hint, Hints, Notifier
from kernelagent.watch.tree import Tree
from tests.files.replays import Client, Facts, play, there

_PATIENCE = 0.1


class Silent(Notifier):
    """Says nothing: the test says where to look."""

    def add(self, directories: Iterable[str]) -> None:
        """Watch nothing."""


@contextlib.contextmanager
def unwatched(root: Path, *, names: int = 10_000, is_new: bool = False) -> Iterator[Tree]:
    """The picture of a directory that is not watched; if `is_new`, no hint has come so far."""
    budget = Budget(names)
    tree = Tree(
        os.open(root, os.O_RDONLY | os.O_DIRECTORY),
        str(root),
        only=None,
        most_directories=1000,
        budget=budget,
        closed=frozenset(),
        stop=threading.Event(),
    )
    tree.notifier = Silent(1000, lambda _: True)
    try:
        tree.open()
        if not is_new:
            # No hint is older than what is remembered.
            tree.update(Hints({}, lost=False, settled=True))
        yield tree
    finally:
        tree.close()
    assert sum(budget.take() for _ in range(names + 1)) == names


def _hints(rng: random.Random, root: Path, before: Facts, after: Facts) -> dict[str, Hint]:
    """Where to look: the names in directories that are still there, and a few that are not."""
    found = {}
    for path in before.keys() | after.keys():
        old, new = before.get(path), after.get(path)
        above = path.rpartition("/")[0]
        is_still = before.get(above) == after.get(above)
        if old != new and (is_still or rng.randrange(2)):
            hint = Hint(0)
            hint |= Hint.DELETED if old else Hint(0)
            hint |= Hint.ADDED if new else Hint(0)
            found[str(root / path)] = hint
    return found


def replay(rng: random.Random, root: Path) -> None:
    """Play in a directory, and see that what is told of it leads to what is there."""
    play(rng, root, 40)
    before = there(root)
    client = Client(before)
    with unwatched(root) as tree:
        for _ in range(8):
            play(rng, root, rng.choice((2, 4, 8, 30)))
            after = there(root)
            for changes in _looks(rng, tree, _hints(rng, root, before, after)):
                client.take_all(changes)
            client.check(after)
            assert tree.look_through() == []
            before = after


def _looks(rng: random.Random, tree: Tree, hinted: dict[str, Hint]) -> Iterator[list[Change]]:
    match rng.randrange(3):
        case 0:
            yield tree.look_through()
        case 1:
            yield tree.update(Hints(hinted, lost=False, settled=True))
        case _:
            # Some of it is heard of later, and with it the other half of some renames.
            late = {path for path in hinted if rng.randrange(2)}
            early = {path: hint for path, hint in hinted.items() if path not in late}
            yield tree.update(Hints(early, lost=False, settled=False))
            rest = {path: hinted[path] for path in sorted(late)}
            yield tree.update(Hints(rest, lost=False, settled=True))
    if tree.has_put_off:
        yield tree.look_through()


@contextlib.contextmanager
def watched(root: Path, *, names: int = 10_000, budget: Budget | None = None) -> Iterator[Tree]:
    """The picture of a directory that is watched."""
    tree = Tree(
        os.open(root, os.O_RDONLY | os.O_DIRECTORY),
        str(root),
        only=None,
        most_directories=1000,
        budget=budget or Budget(names),
        closed=frozenset(),
        stop=threading.Event(),
    )
    try:
        tree.open()
        yield tree
    finally:
        tree.close()


def update(tree: Tree) -> list[Change]:
    """All that has changed, as hints say."""
    changes: list[Change] = []
    while True:
        hints = tree.notifier.collect(threading.Event(), _PATIENCE)
        assert hints is not None
        if not hints.names and not hints.lost and not tree.has_put_off:
            return changes
        changes += tree.update(hints)


def _play_alike(rng: random.Random, root: Path, steps: int) -> None:
    """Do things to files and directories, the same ones again and again."""
    directories = [
        "",
        *(f"d{a}" for a in range(3)),
        *(f"d{a}/e{b}" for a in range(3) for b in "01"),
    ]
    for _ in range(steps):
        directory, other = (root / rng.choice(directories) for _ in range(2))
        name, new = directory / f"f{rng.randrange(5)}", other / f"f{rng.randrange(5)}"
        with contextlib.suppress(OSError):
            match rng.randrange(9):
                case 0 | 1 | 2:
                    name.write_text("x" * rng.randrange(4))
                case 3:
                    name.unlink()
                case 4 | 5:
                    name.rename(new)
                case 6:
                    other.mkdir()
                case 7 if directory != root:
                    shutil.rmtree(directory)
                case 8 if directory != root:
                    directory.rename(other)


def follow(rng: random.Random, root: Path) -> None:
    """Play in a watched directory, and see that what is told of it leads to what is there."""
    _play_alike(rng, root, 30)
    client = Client(there(root))
    budget = Budget(1000)
    with watched(root, budget=budget) as tree:
        for _ in range(12):
            _play_alike(rng, root, rng.choice((1, 2, 5, 50)))
            client.take_all(update(tree))
            client.check(there(root))
            assert tree.look_through() == []
    assert all(budget.take() for _ in range(1000))
    assert not budget.take()
