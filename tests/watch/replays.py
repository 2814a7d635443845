"""A client of watches that takes what it is told one by one, and what is done meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
from collections import Counter
from pathlib import Path

from kernelagent.watch.changes import Change, Event

# Inode, time of the content.
Content = tuple[int, int]
# Of each path what is there, and whether it is a directory.
Facts = dict[str, tuple[Content, bool]]
Known = dict[str, tuple[Content | None, bool]]


class Client:
    """What a client knows of each path, None if it would have to look anew."""

    def __init__(self, facts: Facts) -> None:
        self.known: Known = dict(facts)
        # Where a rename may hide another one: the system joins two to one name.
        self.doubtful: frozenset[str] = frozenset()

    def take(self, change: Change) -> None:
        """One change, which must fit what is known."""
        path, old, known = change.path, change.old_path, self.known
        match change.event:
            case Event.CREATED:
                assert path not in known
                self._add({"": (None, change.is_directory)}, path)
            case Event.DELETED:
                assert known[path][1] == change.is_directory
                self._remove(path)
            case Event.RENAMED:
                assert old is not None
                assert known[old][1] == change.is_directory
                # A file may take the place of another one.
                assert path not in known or not (known[path][1] or change.is_directory)
                moved = self._remove(old)
                if path in self.doubtful:
                    moved = {
                        name: (None, is_directory) for name, (_, is_directory) in moved.items()
                    }
                known.pop(path, None)
                self._add(moved, path)
            case Event.MODIFIED:
                assert known[path][1] == change.is_directory
                if not change.is_directory:
                    known[path] = (None, False)

    def take_all(self, changes: list[Change]) -> None:
        """All of them."""
        for change in changes:
            try:
                self.take(change)
            except (AssertionError, KeyError):
                raise AssertionError(f"{change} does not follow in {changes}") from None

    def knows(self, facts: Facts) -> bool:
        """Whether what is known is what is there."""
        return self.known.keys() == facts.keys() and all(
            is_directory == facts[path][1] and content in (None, facts[path][0])
            for path, (content, is_directory) in self.known.items()
        )

    def check(self, facts: Facts) -> None:
        """See that what is known is what is there, and look at the contents."""
        assert self.knows(facts), (self.known, facts)
        self.known.update(facts)

    def _add(self, items: Known, path: str) -> None:
        above = path.rpartition("/")[0]
        assert not above or self.known[above][1]
        self.known |= {path + below: item for below, item in items.items()}

    def _remove(self, path: str) -> Known:
        gone = [name for name in self.known if name == path or name.startswith(f"{path}/")]
        return {name.removeprefix(path): self.known.pop(name) for name in gone}


def there(root: Path) -> Facts:
    """All that is in a directory."""
    found: Facts = {}
    todo = [""]
    while todo:
        above = todo.pop()
        with os.scandir(root / above) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                is_directory = stat.S_ISDIR(facts.st_mode)
                content = (facts.st_ino, 0 if is_directory else facts.st_mtime_ns)
                path = os.path.join(above, entry.name)  # noqa: PTH118 - many of them
                found[path] = (content, is_directory)
                if is_directory:
                    todo.append(path)
    return found


def play(rng: random.Random, root: Path, steps: int) -> frozenset[str]:
    """Do things to the few paths of a small tree, the same ones again and again.

    Return the paths to which something was renamed more than once.
    """
    targets: Counter[str] = Counter()

    def rename(old: Path, new: Path) -> None:
        old.rename(new)
        targets[str(new.relative_to(root))] += 1

    def any_name() -> Path:
        # What is there as often as what may be.
        names = list(there(root))
        if names and rng.randrange(2):
            return root / rng.choice(names)
        above = rng.choice(["", *names])
        return root / above / rng.choice("abc")

    for _ in range(steps):
        one, other = any_name(), any_name()
        with contextlib.suppress(OSError):
            match rng.randrange(10):
                case 0:
                    one.write_text("x" * rng.randrange(9))
                case 1 | 2:
                    one.mkdir()
                case 3:
                    one.unlink()
                case 4 if one.is_dir():
                    shutil.rmtree(one)
                case 5:
                    aside = root / "aside"
                    rename(one, aside)
                    with contextlib.suppress(OSError):
                        rename(other, one)
                    with contextlib.suppress(OSError):
                        rename(aside, other)
                case 6:
                    rename(one, other)
                    one.mkdir()
                case _:
                    rename(one, other)
    return frozenset(path for path, count in targets.items() if count > 1)


def told(changes: list[Change]) -> list[tuple[str, ...]]:
    """Event and paths of each change."""
    return [
        (change.event.value, *filter(None, (change.old_path, change.path))) for change in changes
    ]
