"""The picture of a tree, without a server: what is told adds up to what is there."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from kernelagent.files.watch_changes import Change
from kernelagent.files.watch_nodes import Budget
from kernelagent.files.watch_notifier import Notifier
from kernelagent.files.watch_tree import RootGone, Tree
from tests.files.replays import Client, there, told

PATIENCE = 0.1
# More of them have found more: WATCH_SEEDS=60.
SEEDS = int(os.environ.get("WATCH_SEEDS", "4"))


@contextlib.contextmanager
def picture(root: Path, *, names: int = 10_000, budget: Budget | None = None) -> Iterator[Tree]:
    """The picture of a directory."""
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
        hints = tree.notifier.collect(threading.Event(), PATIENCE)
        assert hints is not None
        if not hints.names and not hints.lost and not tree.has_put_off:
            return changes
        changes += tree.update(hints)


def play(rng: random.Random, root: Path, steps: int) -> None:
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


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_told_adds_up(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    play(rng, tmp_path, 30)
    client = Client(there(tmp_path))
    budget = Budget(1000)
    with picture(tmp_path, budget=budget) as tree:
        for _ in range(12):
            play(rng, tmp_path, rng.choice((1, 2, 5, 50)))
            client.take_all(update(tree))
            client.check(there(tmp_path))
            assert tree.look_through() == []
    assert all(budget.take() for _ in range(1000))
    assert not budget.take()


def test_renames_in_the_order_in_which_they_can_be_done(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    with picture(tmp_path) as tree:
        (tmp_path / "c").rename(tmp_path / "d")
        (tmp_path / "b").rename(tmp_path / "c")
        (tmp_path / "a").rename(tmp_path / "b")
        assert told(update(tree)) == [
            ("renamed", "c", "d"),
            ("renamed", "b", "c"),
            ("renamed", "a", "b"),
        ]
        (tmp_path / "b").rename(tmp_path / "e")
        (tmp_path / "b").mkdir()
        (tmp_path / "c").rename(tmp_path / "b" / "c")
        assert told(update(tree)) == [
            ("renamed", "b", "e"),
            ("created", "b"),
            ("renamed", "c", "b/c"),
        ]


def test_more_names_than_are_remembered(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number in range(20):
        (tmp_path / f"a{number}").touch()
    budget = Budget(10)
    with picture(tmp_path, budget=budget) as tree:
        assert not tree.is_complete
        (tmp_path / "new").touch()
        assert told(update(tree)) == [("created", "new")]
        (tmp_path / "new").write_text("1")
        assert told(update(tree)) == [("modified", "new")]
        (tmp_path / "new").rename(tmp_path / "d" / "newer")
        assert told(update(tree)) == [("created", "d/newer"), ("deleted", "new")]
        (tmp_path / "d").rename(tmp_path / "e")
        assert told(update(tree)) == [("renamed", "d", "e")]
        shutil.rmtree(tmp_path / "e")
        assert told(update(tree)) == [("deleted", "e/newer"), ("deleted", "e")]
        assert tree.look_through() == []
    assert sum(budget.take() for _ in range(20)) == 10


def test_what_was_missed_is_found(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "a").touch()
    with picture(tmp_path) as tree:
        tree.notifier.close()
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "d" / "e").mkdir()
        (tmp_path / "d" / "e" / "f").touch()
        assert told(tree.look_through()) == [
            ("renamed", "a", "b"),
            ("created", "d/e"),
            ("created", "d/e/f"),
        ]
        # And is watched from then on.
        (tmp_path / "d" / "e" / "g").touch()
        assert told(update(tree)) == [("created", "d/e/g")]


def test_directories_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    with picture(tmp_path) as tree:
        for number in range(12):
            for name in range(150):
                (tmp_path / f"{number}-{name}").mkdir()
            assert len(update(tree)) == 150
            for name in range(150):
                (tmp_path / f"{number}-{name}").rmdir()
            assert len(update(tree)) == 150
        (tmp_path / "last").mkdir()
        update(tree)
        (tmp_path / "last" / "a").touch()
        assert told(update(tree)) == [("created", "last/a")]
        links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()]
        assert sum("inotify" in link for link in links) <= 5


def test_what_comes_while_the_tree_is_looked_at_for_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ready = tmp_path / "root", tmp_path / "ready"
    root.mkdir()
    (ready / "sub").mkdir(parents=True)
    (ready / "sub" / "file").touch()
    add = Notifier.add

    def add_late(notifier: Notifier, directories: Iterable[str]) -> None:
        add(notifier, directories)
        if ready.exists():
            ready.rename(root / "d")
            (root / "d" / "new").touch()

    monkeypatch.setattr(Notifier, "add", add_late)
    with picture(root) as tree:
        assert sorted(told(update(tree))) == [
            ("created", "d"),
            ("created", "d/new"),
            ("created", "d/sub"),
            ("created", "d/sub/file"),
        ]


def test_a_root_that_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with picture(root) as tree:
        root.rename(tmp_path / "other")
        root.mkdir()
        with pytest.raises(RootGone):
            tree.check()
