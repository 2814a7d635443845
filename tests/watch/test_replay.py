"""Changes, taken one after the other, lead from what was there to what is there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelagent.files.fs.paths import TEMPORARY_PREFIX
from tests.watch.looks import follow, replay, update, watched
from tests.watch.replays import Client, there, told


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
    with watched(tmp_path) as tree:
        move(tmp_path, "p b/n1", "a b/n1/d0/e0")
        (tmp_path / "a").mkdir()
        changes = update(tree)
        assert told(changes) == [
            ("renamed", "p", "b/n1"),
            ("renamed", "a", "b/n1/d0/e0"),
            ("created", "a"),
        ]
    client.take_all(changes)
    client.check(there(tmp_path))


def test_two_change_places_in_what_is_moved(tmp_path: Path) -> None:
    client = make(tmp_path, "b/ b/keep b/l2/ b/l2/one x/ x/two k/")
    with watched(tmp_path) as tree:
        move(tmp_path, "b/l2 t", "x b/l2", "t x", "b k/c")
        changes = update(tree)
        assert told(changes) == [
            ("renamed", "b/l2", "t"),
            ("renamed", "x", "b/l2"),
            ("renamed", "t", "x"),
            ("renamed", "b", "k/c"),
        ]
    client.take_all(changes)
    client.check(there(tmp_path))


def test_what_is_moved_out_of_what_is_replaced(tmp_path: Path) -> None:
    client = make(tmp_path, "d/ d/c/ d/c/one d/e d/f")
    outside = tmp_path / TEMPORARY_PREFIX
    outside.mkdir()
    with watched(tmp_path) as tree:
        move(tmp_path, "d/c c")
        (outside / "d").mkdir()
        (outside / "d" / "f").touch()
        shutil.rmtree(tmp_path / "d")
        (outside / "d").rename(tmp_path / "d")
        shutil.rmtree(outside)
        changes = update(tree)
        # Files of a directory go in any order.
        assert sorted(told(changes)[1:3]) == [("deleted", "d/e"), ("deleted", "d/f")]
        del changes[1:3]
        assert told(changes) == [
            ("renamed", "d/c", "c"),
            ("deleted", "d"),
            ("created", "d"),
            ("created", "d/f"),
        ]
        del client.known["d/e"], client.known["d/f"]
    client.take_all(changes)
    client.check(there(tmp_path))


@pytest.mark.parametrize("names", [0, 3, 100])
def test_a_file_is_gone_before_its_directory_moves(tmp_path: Path, names: int) -> None:
    """However many names are remembered."""
    client = make(tmp_path, "d/ d/c/ d/one d/c/two")
    with watched(tmp_path, names=names) as tree:
        (tmp_path / "d" / "one").unlink()
        move(tmp_path, "d e")
        (tmp_path / "e" / "c" / "two").unlink()
        changes = update(tree)
    assert told(changes) == [("deleted", "d/one"), ("renamed", "d", "e"), ("deleted", "e/c/two")]
    client.take_all(changes)
    client.check(there(tmp_path))


def test_two_that_change_places_at_once(tmp_path: Path) -> None:
    client = make(tmp_path, "a/ a/one b/ b/two f g")
    with watched(tmp_path) as tree:
        for one, other in (("a", "b"), ("f", "g")):
            exchange(tmp_path / one, tmp_path / other)
        client.take_all(update(tree))
        client.check(there(tmp_path))
        (tmp_path / "a" / "three").touch()
        (tmp_path / "b" / "four").touch()
        assert told(update(tree)) == [("created", "a/three"), ("created", "b/four")]


def exchange(one: Path, other: Path) -> None:
    """Swap two names in one step: renameat2 with RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


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


def test_a_directory_that_is_away_while_it_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    root.mkdir()
    client = make(root, "e/")
    with watched(root) as tree, monkeypatch.context() as patch:
        (root / "d").mkdir()
        (root / "d" / "one").touch()

        def meanwhile(names: set[str], is_listed: bool) -> None:
            if is_listed and away.exists():
                away.rename(root / "d")
                (root / "d" / "two").touch()
            elif "one" in names and not is_listed:
                (root / "d").rename(away)

        during_scans(patch, meanwhile)
        client.take_all(update(tree))
        patch.undo()
        client.take_all(update(tree))
        client.check(there(root))


def test_a_directory_whose_place_another_takes_while_it_is_looked_for(tmp_path: Path) -> None:
    """What is opened is not what was told of: the number of its watch says so."""
    client = make(tmp_path, "a/ a/old b/ b/new")
    with watched(tmp_path) as tree:
        (tmp_path / "c").mkdir()
        early = list(iter(tree.inotify.read, b""))
        # By the name of the one that was made there is one now that was known by another name.
        move(tmp_path, "c d", "b c", "a b")
        (tmp_path / "d" / "late").touch()
        changes, _ = tree.update(early)
        client.take_all(changes)
        client.take_all(update(tree))
        client.check(there(tmp_path))
        for name in "bcd":
            (tmp_path / name / "last").touch()
        assert told(update(tree)) == [("created", f"{name}/last") for name in "bcd"]
