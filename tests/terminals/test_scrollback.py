"""What is kept of a terminal's output."""

from __future__ import annotations

import random

import pytest

from kernelagent.terminals.scrollback import Scrollback


def test_offsets_never_change() -> None:
    chooser = random.Random(3)  # noqa: S311
    kept, whole = Scrollback(1000), b""
    for _ in range(500):
        data = chooser.randbytes(chooser.choice((0, 1, 7, 100, 3000)))
        kept.append(data)
        whole += data
        assert kept.end == len(whole)
        assert kept.start == max(len(whole) - 1000, 0)
        assert kept.read(kept.start, 2000) == whole[kept.start :]
        offset = chooser.randint(kept.start, kept.end)
        most = chooser.randint(0, 1200)
        assert kept.read(offset, most) == whole[offset : offset + most]


def test_what_is_gone_is_not_read() -> None:
    kept = Scrollback(4)
    kept.append(b"abcdef")
    assert kept.read(2, 10) == b"cdef"
    with pytest.raises(ValueError, match="offset 1"):
        kept.read(1, 1)


@pytest.mark.parametrize(
    ("printed", "asked", "found"),
    [
        (b"abc", 1, 1),
        ("aé".encode(), 2, 3),
        ("a€b".encode(), 2, 4),
        ("a😀b".encode(), 2, 5),
        ("a😀b".encode(), 4, 5),
        ("a😀b".encode(), 1, 1),
        (b"abc", 3, 3),
        (b"a" + b"\x80" * 9, 1, 1),
    ],
)
def test_characters_are_not_cut(printed: bytes, asked: int, found: int) -> None:
    kept = Scrollback(100)
    kept.append(printed)
    assert kept.character_at(asked) == found


def test_a_character_whose_beginning_is_gone() -> None:
    kept = Scrollback(4)
    kept.append("a€bc".encode())
    assert (kept.start, kept.character_at(0)) == (2, 4)
