"""Text search in files beneath a directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import regex

from kernelagent.errors import InvalidRequest
from kernelagent.files.globs import Glob
from kernelagent.files.tree import Entry, Omissions, walk

# Seconds that a search may take; then it answers with what it has.
TIME_LIMIT = 20.0
# Larger files are not searched.
LARGEST_FILE = 64 * 2**20

_LONGEST_PATTERN = 1000
_LONGEST_LINE = 1000
_BINARY_LOOK = 8192


class TextSearch:
    """What to look for; raises InvalidRequest for a pattern that is none."""

    def __init__(
        self, pattern: str, *, literal: bool, ignore_case: bool, glob: str | None, limit: int
    ) -> None:
        if not pattern or len(pattern) > _LONGEST_PATTERN:
            raise InvalidRequest(f"a pattern has 1 to {_LONGEST_PATTERN} characters")
        flags = regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0)
        try:
            self._pattern = regex.compile(regex.escape(pattern) if literal else pattern, flags)
        except (regex.error, OverflowError, RecursionError, ValueError) as error:
            raise InvalidRequest(f"pattern: {str(error)[:200]}") from None
        self._glob = None if glob is None else Glob(glob)
        self._limit = limit
        self._deadline = time.monotonic() + TIME_LIMIT
        self.matches: list[dict[str, Any]] = []
        self.searched = 0
        self.skipped = Omissions()
        self.reason: str | None = None

    def directory(
        self,
        descriptor: int,
        is_closed: Callable[[os.stat_result], bool],
        may_read: Callable[[os.stat_result], bool],
    ) -> None:
        """Search everything in a directory, which is closed at the end."""
        for entry in walk(descriptor, is_closed, self.skipped):
            if self._is_over():
                return
            if not entry.is_file or (self._glob and not self._glob.matches(entry.path)):
                continue
            if entry.facts.st_size > LARGEST_FILE or not may_read(entry.facts):
                self.skipped.add(entry.path)
                continue
            self._entry(entry)

    def _entry(self, entry: Entry) -> None:
        try:
            file = entry.open()
        except OSError:
            self.skipped.add(entry.path)
            return
        try:
            self.file(file, entry.path)
        except OSError:
            self.skipped.add(entry.path)
        finally:
            os.close(file)

    def file(self, file: int, path: str) -> None:
        """Search one file; raises OSError."""
        with os.fdopen(file, "rb", closefd=False) as reader:
            data = reader.read(_BINARY_LOOK)
            self.searched += 1
            if b"\0" in data:
                return  # no text
            data += reader.read(LARGEST_FILE)
        for match in self._lines(data.decode("utf-8", "replace")):
            if len(self.matches) >= self._limit:
                self.reason = "limit"
                return
            self.matches.append({"path": path, **match})

    def _lines(self, text: str) -> Iterator[dict[str, Any]]:
        """The first match in each line that has one."""
        position, line, counted = 0, 1, 0
        while position <= len(text):
            left = self._deadline - time.monotonic()
            try:
                # Without the lock of the interpreter, so that a slow pattern holds up nobody.
                found = self._pattern.search(text, position, concurrent=True, timeout=max(left, 0))
            except TimeoutError:
                self.reason = "time"
                return
            if found is None:
                return
            line += text.count("\n", counted, found.start())
            counted = found.start()
            start = text.rfind("\n", 0, found.start()) + 1
            end = text.find("\n", found.start())
            end = len(text) if end < 0 else end
            first = max(start, found.start() - _LONGEST_LINE // 2)
            yield {
                "line": line,
                "column": found.start() - start + 1,
                "text": text[first : min(end, first + _LONGEST_LINE)].rstrip("\r"),
                "match": found.group()[:_LONGEST_LINE],
            }
            position = max(end, found.end() - 1) + 1

    def _is_over(self) -> bool:
        if self.reason is None and time.monotonic() > self._deadline:
            self.reason = "time"
        return self.reason is not None
