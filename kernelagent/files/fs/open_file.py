"""What is open for reading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self


class OpenFile:
    """A file or directory that is open for reading, and what it was when it was opened."""

    def __init__(self, descriptor: int, facts: os.stat_result, path: str) -> None:
        self.descriptor = descriptor
        self.facts = facts
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """May be repeated."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def pieces(self, start: int, size: int, longest: int) -> Iterator[bytes]:
        """`size` bytes from `start` on; fewer if the file has become shorter."""
        end = start + size
        while start < end:
            data = os.pread(self.descriptor, min(longest, end - start), start)
            if not data:
                return
            start += len(data)
            yield data
