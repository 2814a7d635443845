"""What a terminal has printed: its end is kept, and each byte has a number that never changes."""

from __future__ import annotations

# The longest character.
_LONGEST = 4
# What follows the first byte of one.
_CONTINUATION = bytes(range(0x80, 0xC0))


class Scrollback:
    """The last bytes of a terminal's output, at most `most`.

    An offset counts all bytes that were ever printed: `start` is that of the oldest one kept,
    `end` that of the next one to come.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()
        self.start = 0

    @property
    def end(self) -> int:
        """How much has been printed."""
        return self.start + len(self._kept)

    def append(self, data: bytes) -> None:
        """Take what was printed; what is too old for it goes."""
        self._kept += data
        excess = len(self._kept) - self._most
        if excess > 0:
            del self._kept[:excess]
            self.start += excess

    def read(self, offset: int, most: int) -> bytes:
        """At most `most` bytes from `offset` on, which must have been kept."""
        begin = offset - self.start
        if begin < 0:
            raise ValueError(f"offset {offset} is no longer kept")
        return bytes(memoryview(self._kept)[begin : begin + most])

    def character_at(self, offset: int) -> int:
        """The first offset from `offset` on, as far as it is kept, that is inside no character."""
        offset = max(offset, self.start)
        following = self.read(offset, _LONGEST)
        rest = len(following) - len(following.lstrip(_CONTINUATION))
        return offset + rest if rest < _LONGEST else offset
