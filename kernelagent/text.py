"""Text: bytes that are UTF-8 or nearly so, and moments as clients read them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

# The longest beginning of a character.
_LONGEST_REST = 3


def incomplete(data: bytes) -> int:
    """How many bytes at the end of `data` begin a character that is not complete."""
    for back in range(1, min(_LONGEST_REST, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4
        begins = 0xC2 <= byte < 0xF5
        return back if begins and back < length else 0
    return 0


def pieces(data: bytes, longest: int) -> Iterator[bytes]:
    """`data` in pieces of at most `longest` bytes that divide no character."""
    start = 0
    while start < len(data):
        piece = data[start : start + longest]
        if start + longest < len(data):
            piece = piece[: len(piece) - incomplete(piece)]
        yield piece
        start += len(piece)


def utc_timestamp(moment: datetime | None = None) -> str:
    """`moment`, or now, in RFC 3339: UTC, suffix Z, six digits (old clients take 0, 3 or 6)."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def moment(seconds: float | None) -> str:
    """Unix time in RFC 3339, empty if there is none: published clients read no null."""
    return "" if seconds is None else utc_timestamp(datetime.fromtimestamp(seconds, UTC))
