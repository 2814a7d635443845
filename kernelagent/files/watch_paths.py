"""Which paths may be watched: those beneath the allowed roots."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from kernelagent.errors import InvalidPath, PathNotAllowed
from kernelagent.settings import Settings

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_TOLD = 500
_LONGEST_PATH = 4096


class Place:
    """An open directory and a name in it; a context manager that closes the directory."""

    __slots__ = ("directory", "name", "path")

    def __init__(self, directory: int, name: str, path: str) -> None:
        self.directory = directory
        self.name = name
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)


class Roots:
    """The directories whose contents clients may watch, less those that are `closed` to them."""

    def __init__(self, workspace: Path, roots: Iterable[Path], closed: Iterable[Path]) -> None:
        self.workspace = workspace
        self._roots = (workspace, *roots)
        self.closed = tuple(closed)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the service."""
        roots = [Path(tempfile.gettempdir()), Path("/app")]
        # A user without a home has none to share.
        with contextlib.suppress(RuntimeError):
            home = Path.home()
            if home != Path("/"):
                roots.append(home)
        return cls(settings.workspace, roots, (settings.state_dir,))

    def absolute(self, path: str) -> str:
        """`path` from the root of the file system, relative ones from the workspace."""
        return os.path.normpath(self.workspace / path)

    def locate(self, path: str) -> Place:
        """Where `path` is, links followed; raises PathNotAllowed, InvalidPath, OSError."""
        if not path or "\0" in path:
            raise InvalidPath("a path is not empty and has no NUL character")
        if len(os.fsencode(path)) >= _LONGEST_PATH:
            raise InvalidPath("the path is too long")
        real = Path(os.path.realpath(self.workspace / path))
        if not self._allows(real):
            shown = path[:_LONGEST_TOLD]
            suffix = "" if "not found" in path.lower() else f": {shown}"
            raise PathNotAllowed(f"this path is not allowed{suffix}", details={"path": shown})
        directory = os.open(real.parent, _DIRECTORY)
        if Path(f"/proc/self/fd/{directory}").readlink() != real.parent:
            # Moved, or replaced by a link, since it was resolved.
            os.close(directory)
            raise FileNotFoundError(path)
        return Place(directory, real.name or ".", path)

    def _allows(self, real: Path) -> bool:
        closed = (os.path.realpath(path) for path in self.closed)
        roots = (os.path.realpath(root) for root in self._roots)
        return not any(real.is_relative_to(path) for path in closed) and any(
            real.is_relative_to(root) for root in roots
        )
