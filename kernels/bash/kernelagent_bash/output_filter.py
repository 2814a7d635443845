"""Finds, in the output of a shell, what our own helpers have put into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_END = b"\x1b\\"
_LONGEST_NAME = 64
# Fewer bytes that begin like one of ours are not held back: they may be a prompt.
_TELLING = 8


@dataclass(frozen=True, slots=True)
class Shown:
    """The name of a file that `display` has put aside."""

    name: str


class OutputFilter:
    """Takes the output of one terminal, piece by piece."""

    def __init__(self, mark: bytes, cell_path: bytes, cell_name: bytes) -> None:
        """`mark` begins what `display` prints; `cell_path` is to be read as `cell_name`."""
        self._mark = mark
        self._cell_path = cell_path
        self._cell_name = cell_name
        self._held = b""

    def take(self, data: bytes) -> Iterator[bytes | Shown]:
        """What `data` shows, in order."""
        data = self._held + data
        self._held = b""
        while True:
            # The second is looked for only up to the first: it is rare, and output is long.
            cell = data.find(self._cell_path)
            mark = data.find(self._mark, 0, cell if cell >= 0 else len(data))
            if mark >= 0:
                end = data.find(_END, mark, mark + len(self._mark) + _LONGEST_NAME + len(_END))
                if end < 0 and len(data) - mark <= len(self._mark) + _LONGEST_NAME:
                    yield data[:mark]
                    self._held = data[mark:]
                    return
                if end >= 0:
                    yield data[:mark]
                    yield Shown(data[mark + len(self._mark) : end].decode("ascii", "replace"))
                    data = data[end + len(_END) :]
                    continue
                # Not what it seemed.
                yield data[: mark + len(self._mark)]
                data = data[mark + len(self._mark) :]
                continue
            if cell >= 0:
                # An interactive shell begins with its own name.
                yield data[:cell].removesuffix(b"bash: ") + self._cell_name
                data = data[cell + len(self._cell_path) :]
                continue
            break
        kept = max(overlap(data, self._mark, 2), overlap(data, self._cell_path, _TELLING))
        self._held = data[len(data) - kept :]
        yield data[: len(data) - kept]

    def rest(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held


def overlap(data: bytes, pattern: bytes, least: int = 1) -> int:
    """How many bytes at the end of `data` could be the beginning of `pattern`."""
    for length in range(min(len(pattern) - 1, len(data)), least - 1, -1):
        if data.endswith(pattern[:length]):
            return length
    return 0
