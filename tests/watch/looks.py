"""Trees that are played with, and looked at where the test says: what is told of them adds up."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kernelagent.watch.changes import Change
from kernelagent.watch.nodes import Budget
from kernelagent.watch.tree import Tree
from tests.watch.replays import Client, play, there


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
    """All that has changed, as the system says."""
    data = iter(tree.inotify.read, b"")
    changes, lost = tree.update(data)
    assert not lost
    while tree.holds_back:
        more, lost = tree.update(data)
        assert not lost
        changes += more
    return changes


def _play_alike(rng: random.Random, root: Path, steps: int) -> frozenset[str]:
    """As `play`, with fewer names of directories."""
    targets: Counter[str] = Counter()
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
                    targets[str(new.relative_to(root))] += 1
                case 6:
                    other.mkdir()
                case 7 if directory != root:
                    shutil.rmtree(directory)
                case 8 if directory != root:
                    directory.rename(other)
                    targets[str(other.relative_to(root))] += 1
    return frozenset(path for path, count in targets.items() if count > 1)


def replay(rng: random.Random, root: Path) -> None:
    """Play in a watched directory, and see that what is told of it leads to what is there."""
    play(rng, root, 40)
    client = Client(there(root))
    with watched(root) as tree:
        for _ in range(8):
            client.doubtful = play(rng, root, rng.choice((2, 4, 8, 30)))
            client.take_all(update(tree))
            client.check(there(root))
            assert tree.look_through() == []


def follow(rng: random.Random, root: Path) -> None:
    """The same with few names, and few that may be remembered."""
    _play_alike(rng, root, 30)
    client = Client(there(root))
    budget = Budget(1000)
    with watched(root, budget=budget) as tree:
        for _ in range(12):
            client.doubtful = _play_alike(rng, root, rng.choice((1, 2, 5, 50)))
            client.take_all(update(tree))
            client.check(there(root))
            assert tree.look_through() == []
    assert all(budget.take() for _ in range(1000))
    assert not budget.take()
