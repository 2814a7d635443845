"""Text search in files beneath a directory, line by line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from kernelagent.files.fs import names
from kernelagent.files.fs.tree import Entry, Omissions, walk
from kernelagent.files.search.globs import Glob
from kernelagent.files.search.patterns import Pattern

# Seconds that a search may take; then it answers with what it has.
TIME_LIMIT = 20.0
# Larger files are not searched.
LARGEST_FILE = 64 * 2**20
# Characters of a line, the rest of which is not searched.
LONGEST_LINE = 64 * 1024

_LONGEST_TOLD = 1000
_BINARY_LOOK = 8192
# More bytes than the part of a line that is searched can have.
_BLOCK = 2**20


class TextSearch:
    """What to look for; raises InvalidRequest for a pattern that is none."""

    def __init__(
        self, pattern: str, *, literal: bool, ignore_case: bool, glob: str | None, limit: int
    ) -> None:
        self._pattern = Pattern(pattern, literal=literal, ignore_case=ignore_case)
        self._glob = None if glob is None else Glob(names.real(glob))
        self._limit = limit
        self._deadline = time.monotonic() + TIME_LIMIT
        self._end: str | None = None
        self.matches: list[dict[str, Any]] = []
        self.searched = 0
        self.skipped = Omissions()

    @property
    def reason(self) -> str | None:
        """Why there may be more: limit or time."""
        return self._end

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
        number = 1
        for text in self._blocks(file):
            for line, content in self._candidates(text, number):
                if self._is_over():
                    return
                match = self._match(content)
                if match is None:
                    continue
                if len(self.matches) >= self._limit:
                    self._end = "limit"
                    return
                self.matches.append({"path": path, "line": line, **match})
            if self._is_over():
                return
            number += text.count(b"\n")

    def _blocks(self, file: int) -> Iterator[bytes]:
        """Whole lines, as many as come at once; of a very long one what is searched, and more."""
        rest = os.pread(file, _BINARY_LOOK, 0)
        position = len(rest)
        self.searched += 1
        if b"\0" in rest:
            return  # no text
        while position < LARGEST_FILE and (data := os.pread(file, _BLOCK, position)):
            position += len(data)
            end = data.rfind(b"\n") + 1
            if end:
                yield _text(rest + data[:end])
                rest = data[end:]
            else:
                rest += data[: max(_BLOCK - len(rest), 0)]
        if rest:
            yield _text(rest)

    def _candidates(self, text: bytes, number: int) -> Iterator[tuple[int, bytes]]:
        """Lines that may match, with their numbers; `number` is the first one's."""
        if not self._pattern.is_quick:
            yield from enumerate(text.removesuffix(b"\n").split(b"\n"), number)
            return
        position, length = 0, len(text) - text.endswith(b"\n")
        while position <= length and (found := self._pattern.search(text, position)):
            start = text.rfind(b"\n", 0, found.start()) + 1
            if start > length:
                return
            number += text.count(b"\n", position, start)
            end = text.find(b"\n", found.start())
            end = len(text) if end < 0 else end
            yield number, text[start:end]
            position, number = end + 1, number + 1

    def _match(self, line: bytes) -> dict[str, Any] | None:
        """The first match in a line."""
        if len(line) > LONGEST_LINE:
            line = line.decode()[:LONGEST_LINE].encode()
        found = self._pattern.search(line)
        if found is None:
            return None
        text, column = line.decode(), len(line[: found.start()].decode())
        first = max(0, column - _LONGEST_TOLD // 2)
        return {
            "column": column + 1,
            "text": text[first : first + _LONGEST_TOLD].rstrip("\r"),
            "match": line[found.start() : found.end()].decode()[:_LONGEST_TOLD],
        }

    def _is_over(self) -> bool:
        if self._end is None and time.monotonic() > self._deadline:
            self._end = "time"
        return self._end is not None


def _text(data: bytes) -> bytes:
    """UTF-8, which RE2 looks for characters in."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data
