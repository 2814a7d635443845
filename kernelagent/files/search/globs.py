"""Patterns for paths: `*`, `?`, `[...]` within a name, `**` across names."""

from __future__ import annotations

import fnmatch
import re

from kernelagent.errors import InvalidRequest

_LONGEST = 1000


class Glob:
    """A pattern; one without a slash is for names at any depth.

    The time to match grows with the length of pattern and path, whatever they are.
    """

    def __init__(self, pattern: str) -> None:
        if not pattern or len(pattern) > _LONGEST or "\0" in pattern:
            raise InvalidRequest(f"a glob has 1 to {_LONGEST} characters, and no NUL")
        names = [name for name in pattern.split("/") if name]
        if "/" not in pattern:
            names = ["**", *names]
        self._names: list[re.Pattern[str] | None] = []
        for name in names:
            if name != "**":
                self._names.append(re.compile(fnmatch.translate(name), re.DOTALL))
            elif not self._names or self._names[-1] is not None:
                self._names.append(None)

    def matches(self, path: str) -> bool:
        """Whether a relative path is meant."""
        # After each name of the path: which beginnings of the pattern match the path so far.
        reached = self._skip({0})
        for part in path.split("/"):
            after: set[int] = set()
            for position in reached:
                if position == len(self._names):
                    continue
                name = self._names[position]
                if name is None:
                    after.add(position)
                elif name.match(part):
                    after.add(position + 1)
            reached = self._skip(after)
            if not reached:
                return False
        return len(self._names) in reached

    def _skip(self, positions: set[int]) -> set[int]:
        """`**` may stand for nothing."""
        return positions | {
            position + 1
            for position in positions
            if position < len(self._names) and self._names[position] is None
        }
