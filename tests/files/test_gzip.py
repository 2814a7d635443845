"""Gzip as it comes: members one after the other, and what may follow them."""

from __future__ import annotations

import gzip
from collections.abc import Generator

import pytest

from kernelagent.errors import ArchiveRefused
from kernelagent.files.archives.tar import read_gzip


def unpacked(data: bytes, *, piece: int = 7, ratio: int = 200) -> bytes:
    """What a reader of an archive is given."""
    taken = bytearray()

    def reader() -> Generator[None, bytes | None, None]:
        while (more := (yield)) is not None:
            taken.extend(more)

    inner = reader()
    next(inner)
    unpacking = read_gzip(inner, ratio)
    next(unpacking)
    for start in range(0, len(data), piece):
        unpacking.send(data[start : start + piece])
    with pytest.raises(StopIteration):
        unpacking.send(None)
    return bytes(taken)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_members_follow_each_other_and_zeros_the_last(piece: int) -> None:
    data = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 100
    assert unpacked(data, piece=piece) == b"one two"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no gzip at all", "no gzip data"),
        (gzip.compress(b"one") + b"rubbish", "no gzip data"),
        (gzip.compress(b"one")[:-4], "cut off"),
        (b"", "cut off"),
    ],
    # The data has the time in it, and each worker its own.
    ids=["no gzip", "rubbish behind", "cut off", "nothing"],
)
def test_what_is_not_whole_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveRefused, match=reason):
        unpacked(data)
