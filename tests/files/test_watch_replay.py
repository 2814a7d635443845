"""Changes of one round, taken one after the other, lead from what was there to what is there."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelagent.files.fs.paths import TEMPORARY_PREFIX
from kernelagent.watch.notifier import Hint, Hints
from tests.files.looks import follow, replay, unwatched
from tests.files.replays import Client, there, told


@pytest.mark.parametrize("seed", range(0, 200, 25))
def test_a_replay_ends_where_the_tree_does(tmp_path: Path, seed: int) -> None:
    """Some of them: `make prove watches` plays a thousand."""
    for number in range(seed, seed + 6):
        root = tmp_path / str(number)
        root.mkdir()
        replay(random.Random(number), root)  # noqa: S311 - no secret


def test_what_is_told_first_of_a_watched_tree_ends_where_it_does(tmp_path: Path) -> None:
    """Here directories and files come back under the same numbers before the first look."""
    follow(random.Random(1390228694), tmp_path)  # noqa: S311 - no secret


def make(root: Path, paths: str) -> Client:
    """Directories, and files in them, in a place of their own; what a client knows of them."""
    for path in paths.split():
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
        else:
            (root / path).write_text(path)
    return Client(there(root))


def move(root: Path, *moves: str) -> None:
    for old, new in (item.split() for item in moves):
        (root / old).rename(root / new)


def test_into_what_is_moved_itself(tmp_path: Path) -> None:
    client = make(tmp_path, "a/ a/keep b/ p/d0/")
    with unwatched(tmp_path) as tree:
        move(tmp_path, "p b/n1", "a b/n1/d0/e0")
        (tmp_path / "a").mkdir()
        changes = tree.look_through()
        assert told(changes) == [
            ("renamed", "p", "b/n1"),
            ("renamed", "a", "b/n1/d0/e0"),
            ("created", "a"),
        ]
    client.take_all(changes)
    client.check(there(tmp_path))


def test_two_change_places_in_what_is_moved(tmp_path: Path) -> None:
    client = make(tmp_path, "b/ b/keep b/l2/ b/l2/one x/ x/two k/")
    with unwatched(tmp_path) as tree:
        move(tmp_path, "b/l2 t", "x b/l2", "t x", "b k/c")
        changes = tree.look_through()
        # No order of renames tells of all three.
        assert told(changes) == [
            ("deleted", "x/two"),
            ("deleted", "x"),
            ("renamed", "b/l2", "x"),
            ("renamed", "b", "k/c"),
            ("created", "k/c/l2"),
            ("created", "k/c/l2/two"),
        ]
    client.take_all(changes)
    client.check(there(tmp_path))


def test_what_is_moved_out_of_what_is_replaced(tmp_path: Path) -> None:
    client = make(tmp_path, "d/ d/c/ d/c/one d/e d/f")
    outside = tmp_path / TEMPORARY_PREFIX
    outside.mkdir()
    with unwatched(tmp_path) as tree:
        move(tmp_path, "d/c c")
        (outside / "d").mkdir()
        (outside / "d" / "f").touch()
        shutil.rmtree(tmp_path / "d")
        (outside / "d").rename(tmp_path / "d")
        shutil.rmtree(outside)
        changes = tree.look_through()
        assert told(changes) == [
            ("renamed", "d/c", "c"),
            ("deleted", "d/f"),
            ("deleted", "d/e"),
            ("deleted", "d"),
            ("created", "d"),
            ("created", "d/f"),
        ]
    client.take_all(changes)
    client.check(there(tmp_path))


def test_what_has_gone_and_come_back_before_the_first_look(tmp_path: Path) -> None:
    client = make(tmp_path, "d/ d/one f")
    with unwatched(tmp_path, is_new=True) as tree:
        # The same numbers again, as when the system uses them anew.
        move(tmp_path, "d e", "e d", "f g", "g f")
        back = Hint.DELETED | Hint.ADDED
        hinted = {str(tmp_path / name): back for name in ("d", "f")}
        changes = tree.update(Hints(hinted, lost=False, settled=True))
        assert told(changes) == [
            ("deleted", "d/one"),
            ("deleted", "d"),
            ("created", "d"),
            ("created", "d/one"),
            ("modified", "f"),
        ]
    client.take_all(changes)
    client.check(there(tmp_path))


def lose_and_move(root: Path) -> Hints:
    """Remove `d/one`, then rename `d` to `e`."""
    (root / "d" / "one").unlink()
    move(root, "d e")
    hinted = {
        str(root / "d"): Hint.DELETED,
        str(root / "d" / "one"): Hint.DELETED,
        str(root / "e"): Hint.ADDED,
    }
    return Hints(hinted, lost=False, settled=True)


def test_a_file_that_was_not_remembered_is_gone_before_its_directory_moves(tmp_path: Path) -> None:
    make(tmp_path, "d/ d/c/ d/one")
    with unwatched(tmp_path, names=0) as tree:
        changes = tree.update(lose_and_move(tmp_path))
        assert told(changes) == [("deleted", "d/one"), ("renamed", "d", "e")]


def test_what_is_remembered_is_not_told_as_gone_twice(tmp_path: Path) -> None:
    client = make(tmp_path, "d/ d/c/ d/one d/c/two")
    # All but the last one; the watched directory takes one.
    with unwatched(tmp_path, names=4) as tree:
        assert not tree.is_complete
        changes = tree.update(lose_and_move(tmp_path))
        assert told(changes) == [("renamed", "d", "e"), ("deleted", "e/one")]
    client.take_all(changes)
    client.check(there(tmp_path))


def during_scans(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[set[str], bool], None]
) -> None:
    """Have something happen before each directory is listed, and after."""
    scandir = os.scandir

    @contextlib.contextmanager
    def listed(descriptor: int) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(f"/proc/self/fd/{descriptor}") as entries:
            names = {entry.name for entry in entries}
        meanwhile(names, False)
        with scandir(descriptor) as entries:
            found = list(entries)
        meanwhile(names, True)
        yield found

    monkeypatch.setattr("kernelagent.watch.tree.os.scandir", listed)


def test_a_directory_that_is_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    root.mkdir()
    client = make(root, "d/ d/one e/")
    with unwatched(root) as tree, monkeypatch.context() as patch:

        def meanwhile(names: set[str], is_listed: bool) -> None:
            if is_listed and away.exists():
                away.rename(root / "d")
                (root / "d" / "two").touch()
            elif "d" in names:
                (root / "d").rename(away)

        during_scans(patch, meanwhile)
        client.take_all(tree.look_through())
        patch.undo()
        client.take_all(tree.look_through())
        client.check(there(root))


def test_a_directory_that_goes_once_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    client = make(root, "d/ d/e/ d/e/one")
    with unwatched(root) as tree, monkeypatch.context() as patch:
        (root / "d" / "e" / "two").touch()

        def meanwhile(names: set[str], is_listed: bool) -> None:
            if is_listed and "two" in names:
                (root / "d" / "e").rename(tmp_path / "away")

        during_scans(patch, meanwhile)
        hinted = {str(root / "d"): Hint.ADDED, str(root / "d" / "e"): Hint.DELETED}
        client.take_all(tree.update(Hints(hinted, lost=False, settled=True)))
        patch.undo()
        client.check(there(root))
