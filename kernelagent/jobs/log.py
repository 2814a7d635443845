"""The log of a job: on disk, bounded, read by offset.

An offset counts the bytes that the job has printed to both streams, from 0. The log is a folder of
segments, each named by its first offset. The first one keeps the beginning; of the others the
oldest go when there is no room, so that the middle is cut.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelagent.jobs.job import LogFacts
from kernelagent.text import incomplete, pieces

log = logging.getLogger(__name__)

STREAMS = ("stdout", "stderr")

# offset, length, stream, Unix time
_HEADER = struct.Struct("<QIBd")
_LONGEST_RECORD = 64 * 1024
# What waits for the disk; beyond it the oldest is cut.
_BACKLOG = 32 * 2**20
_TAIL_SEGMENTS = 4
# The end of each stream, at hand for lists.
_TAIL = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of one stream."""

    offset: int
    stream: str
    data: bytes
    time: float

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Gap:
    """What was printed here is kept no longer."""

    offset: int
    end: int


class JobLog:
    """Takes what a job prints; `close` must be awaited.

    `limit` bounds the files, headers included. Files are written in a thread, in order.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self._limit = limit
        self._longest_record = min(_LONGEST_RECORD, limit // (4 * _TAIL_SEGMENTS))
        self.facts = LogFacts()
        self._backlog: deque[Record] = deque()
        self.backlog_bytes = 0
        self._rests = dict.fromkeys(STREAMS, b"")
        self._tails = {name: bytearray() for name in STREAMS}
        self._offset = 0
        self._written = 0
        self._segments: deque[tuple[Path, int]] = deque()
        self._file = -1
        self._file_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def written(self) -> int:
        """How far it is on disk, or was given up."""
        return self._written

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed

    def write(self, stream: str, data: bytes) -> None:
        """Append to a stream; never waits. A character that is incomplete waits for its rest."""
        data = self._rests[stream] + data
        whole = len(data) - incomplete(data)
        self._rests[stream] = data[whole:]
        self._take(stream, data[:whole])

    def tail(self, stream: str) -> str:
        """The last 4 KiB of a stream."""
        return bytes(self._tails[stream]).decode("utf-8", "replace")

    async def drained(self) -> None:
        """Wait until everything taken so far is on disk, or lost."""
        while self._writer is not None:
            await asyncio.shield(self._writer)

    async def grown(self, offset: int) -> bool:
        """Wait until there is something behind `offset`; False if nothing will come any more."""
        while self._written <= offset and not self._closed:
            await self._changed.wait()
        return self._written > offset

    async def close(self) -> None:
        """Write what waits; nothing more is taken. May be repeated."""
        for stream in STREAMS:
            rest, self._rests[stream] = self._rests[stream], b""
            self._take(stream, rest)
        await self.drained()
        if self._file >= 0:
            descriptor, self._file = self._file, -1
            await asyncio.to_thread(os.close, descriptor)
        self._closed = True
        self._announce()

    def _take(self, stream: str, data: bytes) -> None:
        now = time.time()
        for piece in pieces(data, self._longest_record):
            self._backlog.append(Record(self._offset, stream, piece, now))
            self._offset += len(piece)
            self.backlog_bytes += len(piece)
        if stream == "stdout":
            self.facts.stdout_bytes += len(data)
        else:
            self.facts.stderr_bytes += len(data)
        tail = self._tails[stream]
        tail += data[-_TAIL:]
        del tail[:-_TAIL]
        while self.backlog_bytes > _BACKLOG:
            cut = self._backlog.popleft()
            self.backlog_bytes -= len(cut.data)
            self.facts.cut_bytes += len(cut.data)
        if self._backlog and self._writer is None:
            self._writer = asyncio.create_task(self._write_all(), name=f"log {self.folder.name}")

    async def _write_all(self) -> None:
        try:
            while self._backlog:
                batch = list(self._backlog)
                self._backlog.clear()
                if not self.facts.error:
                    try:
                        await asyncio.to_thread(self._write_batch, batch)
                    except OSError as error:
                        self.facts.error = error.strerror or str(error)
                        log.warning("a job's log could not be written: %s", self.facts.error)
                unwritten = [record for record in batch if record.end > self._written]
                self.facts.cut_bytes += _size(unwritten)
                self.backlog_bytes -= _size(batch)
                self._written = batch[-1].end
                self._announce()
        finally:
            self._writer = None

    def _announce(self) -> None:
        self._changed.set()
        self._changed.clear()

    def _write_batch(self, batch: list[Record]) -> None:
        for record in _merged(batch, self._longest_record):
            size = _HEADER.size + len(record.data)
            if self._file < 0 or self._file_bytes + size > self._segment_limit:
                self._begin_segment(record.offset)
            number = STREAMS.index(record.stream)
            header = _HEADER.pack(record.offset, len(record.data), number, record.time)
            _write(self._file, header + record.data)
            self._file_bytes += size
            self._written = record.end

    @property
    def _segment_limit(self) -> int:
        share = 2 if len(self._segments) <= 1 else 2 * _TAIL_SEGMENTS
        return max(self._limit // share, _HEADER.size + 1)

    def _begin_segment(self, offset: int) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        while len(self._segments) > _TAIL_SEGMENTS:
            (path, start), (_, following) = self._segments[1], self._segments[2]
            path.unlink(missing_ok=True)
            self.facts.cut_bytes += following - start
            del self._segments[1]
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{offset:020d}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._file_bytes = 0
        self._segments.append((path, offset))


def read_log(folder: Path, offset: int, limit: int) -> tuple[list[Record | Gap], int]:
    """What a log has from `offset` on, about `limit` bytes of it, and the offset behind that.

    Blocks on the disk, so it is called in a thread.
    """
    entries: list[Record | Gap] = []
    size = 0
    for record in _records(folder, offset):
        if record.offset > offset:
            entries.append(Gap(offset, record.offset))
        elif record.offset < offset:
            skip = offset - record.offset
            record = Record(offset, record.stream, record.data[skip:], record.time)  # noqa: PLW2901
        entries.append(record)
        offset = record.end
        size += len(record.data)
        if size >= limit:
            break
    return entries, offset


def _records(folder: Path, offset: int) -> Iterator[Record]:
    """The records that end behind `offset`, in order."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.isdecimal())  # noqa: PTH208
    except FileNotFoundError:
        return
    first = max((place for place, name in enumerate(names) if int(name) <= offset), default=0)
    for name in names[first:]:
        try:
            file = (folder / name).open("rb")
        except FileNotFoundError:
            # Cut meanwhile.
            continue
        with file:
            while len(header := file.read(_HEADER.size)) == _HEADER.size:
                start, length, number, moment = _HEADER.unpack(header)
                if start + length <= offset:
                    file.seek(length, os.SEEK_CUR)
                    continue
                data = file.read(length)
                if len(data) < length:
                    # Being written, or what a server that was killed has left.
                    return
                yield Record(start, STREAMS[number], data, moment)


def _merged(records: list[Record], longest: int) -> Iterator[Record]:
    """`records` with neighbours of one stream joined, as long as they are short."""
    pieces: list[Record] = []
    size = 0
    for record in records:
        joins = (
            pieces
            and record.stream == pieces[0].stream
            and record.offset == pieces[-1].end
            and size + len(record.data) <= longest
        )
        if pieces and not joins:
            yield _joined(pieces)
            pieces, size = [], 0
        pieces.append(record)
        size += len(record.data)
    if pieces:
        yield _joined(pieces)


def _joined(pieces: list[Record]) -> Record:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    data = b"".join(piece.data for piece in pieces)
    return Record(first.offset, first.stream, data, first.time)


def _size(records: list[Record]) -> int:
    return sum(len(record.data) for record in records)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
