"""Which paths what runs must not reach: the state directory, and files that hold keys."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Hidden(NamedTuple):
    """Paths without symbolic links, none of them within another."""

    paths: list[str]
    # The state directory and the files of keys, each of them one of the paths or within one.
    secrets: list[str]
    # Of keys as they were named: whatever takes the place of one of these is not hidden.
    bare: list[str]


def find_hidden(state: Path, keys: Sequence[Path], needed: Iterable[str | Path]) -> Hidden:
    """What there is of them; `needed` are paths that must be seen by what runs.

    What is mounted over a file goes when another file is renamed to its place. So the directory of
    a key is hidden whole where that can be, and the one of a link to it too.
    """
    top = os.path.realpath(state)
    seen = {os.path.realpath(path) for path in needed}
    paths = [top] if Path(top).exists() and top != "/" else []
    secrets, bare = list(paths), []
    for key in map(str, keys):
        file = os.path.realpath(key)
        if not Path(file).exists():
            continue
        secrets.append(file)
        whole = {place: _can_be_hidden(place, seen) for place in map(_place_of, (file, key))}
        paths += [place for place, can in whole.items() if can]
        if not whole[_place_of(file)]:
            paths.append(file)
        if not all(can or _is_within(place, top) for place, can in whole.items()):
            bare.append(key)
    outermost = [
        path
        for path in dict.fromkeys(paths)
        if not any(other != path and _is_within(path, other) for other in paths)
    ]
    return Hidden(outermost, secrets, bare)


def _place_of(path: str) -> str:
    """The directory that a file is in; with the volumes of Kubernetes, where its link is."""
    place = Path(os.path.realpath(Path(path).parent))
    return str(place.parent if place.name.startswith("..") else place)


def _can_be_hidden(directory: str, seen: set[str]) -> bool:
    """Whether it holds files only, as one for keys does, and nobody else puts any there."""
    if _is_within(directory, "/proc") or any(_is_within(path, directory) for path in seen):
        return False
    try:
        with os.scandir(directory) as entries:
            return not Path(directory).stat().st_mode & stat.S_IWOTH and all(
                entry.is_symlink() or entry.is_file() or entry.name.startswith("..")
                for entry in entries
            )
    except OSError:
        return False


def _is_within(path: str, directory: str) -> bool:
    return Path(path).is_relative_to(directory)
