"""The picture of a tree, without a server: what is told adds up to what is there."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from kernelagent.watch.inotify import Inotify
from kernelagent.watch.nodes import Budget
from tests.watch.looks import follow, update, watched
from tests.watch.replays import told


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_adds_up(tmp_path: Path, seed: int) -> None:
    """`make prove watches` finds more."""
    follow(random.Random(seed), tmp_path)  # noqa: S311 - no secret


def test_renames_in_the_order_in_which_they_can_be_done(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    with watched(tmp_path) as tree:
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
        assert told(update(tree)) == [("renamed", "b", "e"), ("created", "b")]
        (tmp_path / "c").rename(tmp_path / "b" / "c")
        assert told(update(tree)) == [("renamed", "c", "b/c")]


def test_what_is_moved_into_a_directory_of_the_same_moment(tmp_path: Path) -> None:
    """The directory is not watched yet: nothing says where what has left has gone."""
    (tmp_path / "a").touch()
    with watched(tmp_path) as tree:
        (tmp_path / "new").mkdir()
        (tmp_path / "a").rename(tmp_path / "new" / "a")
        assert told(update(tree)) == [
            ("created", "new"),
            ("deleted", "a"),
            ("created", "new/a"),
        ]


def test_more_names_than_are_remembered(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number in range(20):
        (tmp_path / f"a{number}").touch()
    budget = Budget(10)
    with watched(tmp_path, budget=budget) as tree:
        (tmp_path / "new").touch()
        assert told(update(tree)) == [("created", "new")]
        (tmp_path / "new").write_text("1")
        assert told(update(tree)) == [("modified", "new")]
        (tmp_path / "new").rename(tmp_path / "d" / "newer")
        assert told(update(tree)) == [("renamed", "new", "d/newer")]
        (tmp_path / "d").rename(tmp_path / "e")
        assert told(update(tree)) == [("renamed", "d", "e")]
        shutil.rmtree(tmp_path / "e")
        assert told(update(tree)) == [("deleted", "e/newer"), ("deleted", "e")]
        assert tree.look_through() == []
    assert sum(budget.take() for _ in range(20)) == 10


def test_what_was_missed_is_found(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "a").touch()
    with watched(tmp_path) as tree:
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "d" / "e").mkdir()
        (tmp_path / "d" / "e" / "f").touch()
        # As if the system had lost it.
        while tree.inotify.read():
            pass
        assert sorted(told(tree.look_through())) == [
            ("created", "b"),
            ("created", "d/e"),
            ("created", "d/e/f"),
            ("deleted", "a"),
        ]
        # And is watched from then on.
        (tmp_path / "d" / "e" / "g").touch()
        assert told(update(tree)) == [("created", "d/e/g")]


def test_what_the_system_loses_is_told_as_lost_and_looked_for(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with watched(tmp_path) as tree:
        for number in range(most // 2 + 10):
            (tmp_path / f"{number}").touch()
            (tmp_path / f"{number}").unlink()
        (tmp_path / "last").touch()
        changes, lost = tree.update(iter(tree.inotify.read, b""))
        assert lost
        assert told(changes) == [("created", "last")]
        assert not tree.update([])[1]


def instances() -> int:
    """How many inotify instances this process has."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return sum("inotify" in link for link in links)


def test_directories_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    before = instances()
    with watched(tmp_path) as tree:
        for number in range(6):
            for name in range(300):
                (tmp_path / f"{number}-{name}").mkdir()
            assert len(update(tree)) == 300
            for name in range(300):
                (tmp_path / f"{number}-{name}").rmdir()
            assert len(update(tree)) == 300
        (tmp_path / "last").mkdir()
        update(tree)
        (tmp_path / "last" / "a").touch()
        assert told(update(tree)) == [("created", "last/a")]
        assert instances() - before == 1
    assert instances() == before


def test_what_comes_while_the_tree_is_looked_at_for_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ready = tmp_path / "root", tmp_path / "ready"
    root.mkdir()
    (ready / "sub").mkdir(parents=True)
    (ready / "sub" / "file").touch()
    add = Inotify.add

    def add_late(inotify: Inotify, directory: int, mask: int) -> int:
        number = add(inotify, directory, mask)
        if ready.exists():
            ready.rename(root / "d")
            (root / "d" / "new").touch()
        return number

    monkeypatch.setattr(Inotify, "add", add_late)
    with watched(root) as tree:
        assert sorted(told(update(tree))) == [
            ("created", "d"),
            ("created", "d/new"),
            ("created", "d/sub"),
            ("created", "d/sub/file"),
        ]


def test_a_root_that_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with watched(root) as tree:
        assert not tree.is_gone
        root.rename(tmp_path / "other")
        root.mkdir()
        assert tree.is_gone
