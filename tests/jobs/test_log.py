"""A job's log on disk: its bound, its offsets, what a reader sees of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kernelagent.jobs.log import Gap, JobLog, Record, read_log

LIMIT = 64 * 1024
EVERYTHING = 2**40


@asynccontextmanager
async def opened(folder: Path, limit: int = LIMIT) -> AsyncIterator[JobLog]:
    log = JobLog(folder, limit)
    try:
        yield log
    finally:
        await log.close()


def read(folder: Path, offset: int = 0, limit: int = EVERYTHING) -> list[Record | Gap]:
    return read_log(folder, offset, limit)[0]


def text(entries: list[Record | Gap], stream: str) -> bytes:
    return b"".join(
        entry.data for entry in entries if isinstance(entry, Record) and entry.stream == stream
    )


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


async def test_both_streams_come_back_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path / "log") as log:
        for number in range(100):
            log.write("stdout" if number % 3 else "stderr", f"{number}\n".encode())
            if number % 10 == 0:
                await log.drained()

    entries = read(tmp_path / "log")
    lines = b"".join(entry.data for entry in entries if isinstance(entry, Record)).split()
    assert lines == [str(number).encode() for number in range(100)]
    assert text(entries, "stderr").split() == [str(n).encode() for n in range(0, 100, 3)]
    assert log.facts.bytes == sum(len(str(number)) + 1 for number in range(100))
    assert log.facts.cut_bytes == 0


async def test_any_offset_continues_exactly_there(tmp_path: Path) -> None:
    data = bytes(random.Random(1).choices(b"abc\n", k=20_000))  # noqa: S311
    async with opened(tmp_path / "log") as log:
        for start in range(0, len(data), 37):
            log.write("stdout", data[start : start + 37])
            if start % 5 == 0:
                await log.drained()

    offsets = random.Random(2).sample(range(len(data)), 200)  # noqa: S311
    for offset in offsets:
        assert text(read(tmp_path / "log", offset), "stdout") == data[offset:]
    assert read_log(tmp_path / "log", len(data), EVERYTHING) == ([], len(data))


async def test_pages_join_without_loss_or_repetition(tmp_path: Path) -> None:
    async with opened(tmp_path / "log") as log:
        log.write("stdout", b"x" * 30_000)
        log.write("stderr", b"y" * 10_000)

    offset, found = 0, b""
    while True:
        entries, offset = read_log(tmp_path / "log", offset, 999)
        if not entries:
            break
        found += b"".join(entry.data for entry in entries if isinstance(entry, Record))
    assert found == b"x" * 30_000 + b"y" * 10_000


@pytest.mark.parametrize("piece", [1, 10, 1000, 50_000])
async def test_the_middle_is_cut_and_counted(tmp_path: Path, piece: int) -> None:
    # Of single bytes fewer, still more than is kept.
    total = min(1_000_000, 120_000 * piece)
    data = b"".join(b"%09d\n" % number for number in range(total // 10))
    async with opened(tmp_path / "log") as log:
        for start in range(0, total, piece):
            log.write("stdout", data[start : start + piece])
            if start % (50 * piece) == 0:
                await log.drained()

    entries = read(tmp_path / "log")
    gaps = [entry for entry in entries if isinstance(entry, Gap)]
    kept = sum(len(entry.data) for entry in entries if isinstance(entry, Record))
    assert disk(tmp_path / "log") <= LIMIT
    assert kept > LIMIT / 3 or piece < 10
    assert log.facts.bytes == total
    assert log.facts.cut_bytes == total - kept == sum(gap.end - gap.offset for gap in gaps)
    for entry in entries:
        if isinstance(entry, Record):
            assert entry.data == data[entry.offset : entry.end]
    first, last = entries[0], entries[-1]
    assert isinstance(first, Record) and first.offset == 0
    assert last.end == total
    # Both ends are there, not only one.
    assert isinstance(entries[-1], Record)
    assert len(gaps) == 1


async def test_a_reader_that_starts_in_a_gap_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path / "log") as log:
        for _ in range(100):
            log.write("stdout", b"z" * 10_000)
            await log.drained()

    (gap,) = [entry for entry in read(tmp_path / "log") if isinstance(entry, Gap)]
    middle = (gap.offset + gap.end) // 2
    first, *rest = read(tmp_path / "log", middle)
    assert first == Gap(middle, gap.end)
    assert rest[0].offset == gap.end


async def test_characters_are_never_divided(tmp_path: Path) -> None:
    data = "aé€😀\n".encode() * 500
    async with opened(tmp_path / "log", 2**20) as log:
        log.write("stderr", "é€😀".encode() * 20_000)
        for byte in data:
            log.write("stdout", bytes([byte]))
            log.write("stderr", b".")
        await log.drained()

    entries = read(tmp_path / "log")
    assert text(entries, "stdout") == data
    for entry in entries:
        assert isinstance(entry, Record)
        entry.data.decode()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\xe2\x82", b"\xf0\x9f\x98", b"a\xc3", b"\x80" * 9])
async def test_what_is_no_text_survives(tmp_path: Path, data: bytes) -> None:
    async with opened(tmp_path / "log") as log:
        for byte in data:
            log.write("stdout", bytes([byte]))

    assert text(read(tmp_path / "log"), "stdout") == data
    assert log.facts.stdout_bytes == len(data)


async def test_readers_hear_of_what_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "log") as log:
        grown = asyncio.create_task(log.grown(0))
        await asyncio.sleep(0)
        assert not grown.done()
        log.write("stdout", b"now")
        assert await grown
        assert text(read(tmp_path / "log"), "stdout") == b"now"
        more = asyncio.create_task(log.grown(3))
        await asyncio.sleep(0)
    assert not await more


async def test_a_record_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path / "log") as log:
        log.write("stdout", b"whole")
        await log.drained()
        log.write("stderr", b"half")
    (segment,) = (tmp_path / "log").iterdir()
    content = segment.read_bytes()
    for lost in range(1, 20):
        segment.write_bytes(content[:-lost])
        assert text(read(tmp_path / "log"), "stdout") == b"whole"
        assert text(read(tmp_path / "log"), "stderr") == b""


async def test_a_full_disk_is_told_and_counted(tmp_path: Path) -> None:
    # A file where the folder should be fails as a full disk does, for root too.
    (tmp_path / "log").write_text("")
    async with opened(tmp_path / "log") as log:
        log.write("stdout", b"x" * 1000)
        await log.drained()
        log.write("stdout", b"x" * 1000)

    assert log.facts.error
    assert (log.facts.bytes, log.facts.cut_bytes) == (2000, 2000)
    assert log.backlog_bytes == 0
    assert log.tail("stdout") == "x" * 2000


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    piece = b"w" * 2**20
    async with opened(tmp_path / "log", 4 * 2**20) as log:
        for _ in range(100):
            log.write("stdout", piece)
            assert log.backlog_bytes <= 33 * 2**20

    assert log.facts.bytes == 100 * 2**20
    kept = len(text(read(tmp_path / "log"), "stdout"))
    assert log.facts.cut_bytes == log.facts.bytes - kept
    assert read(tmp_path / "log")[-1].end == log.facts.bytes
