"""What a command prints: kept with a bound, or handed on as it comes."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kernelagent.text import incomplete, pieces
from kernelagent.workspace.spill import Spill

STREAMS = ("stdout", "stderr")

# Bytes of output in one message of a stream.
LONGEST_PIECE = 512 * 1024
# On their way to a client; the command waits while there are more.
_ROOM = 2 * 2**20


@dataclass(slots=True)
class KeptOutput:
    """The beginning of both streams, together `budget` bytes; the rest goes to `spill`."""

    budget: int
    spill: Spill
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    _kept: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in STREAMS}
    )
    _markers: dict[str, str] = field(default_factory=dict)

    @property
    def backlog_bytes(self) -> int:
        """How much waits for the disk."""
        return self.spill.backlog_bytes

    async def drained(self) -> None:
        """Wait until all of it is on disk, or lost."""
        await self.spill.drained()

    @property
    def kept_bytes(self) -> int:
        """How much is in memory."""
        return sum(map(len, self._kept.values()))

    def write(self, stream: str, data: bytes) -> None:
        """Take a piece; never waits."""
        self.totals[stream] += len(data)
        if stream not in self._markers:
            room = self.budget - self.kept_bytes
            if len(data) <= room:
                self._kept[stream] += data
                return
            self._cut(stream, data[:room])
            data = data[room:]
        self.spill.write(f"{stream}.txt", data)

    def fields(self) -> dict[str, Any]:
        """Fields of an answer; `stdout_base64` and so on where a stream is no UTF-8."""
        answer: dict[str, Any] = {}
        for stream in STREAMS:
            data = bytes(self._kept[stream])
            marker = self._markers.get(stream, "")
            try:
                answer[stream] = data.decode() + marker
            except UnicodeDecodeError:
                answer[stream] = data.decode("utf-8", "replace") + marker
                answer[f"{stream}_base64"] = base64.b64encode(data).decode()
        return answer

    def truncation(self) -> dict[str, Any]:
        """What was cut, in true numbers; final once the spill is closed."""
        return {
            "truncated": bool(self._markers),
            "total_bytes": sum(self.totals.values()),
            "kept_bytes": self.kept_bytes,
            "stdout_bytes": self.totals["stdout"],
            "stderr_bytes": self.totals["stderr"],
            "lost_bytes": self.spill.lost,
            "files": [
                {"path": str(file.path), "bytes": file.bytes}
                for file in self.spill.files.values()
                if file.bytes
            ],
        }

    def _cut(self, stream: str, head: bytes) -> None:
        kept = self._kept[stream]
        kept += head
        rest = incomplete(bytes(kept[-4:]))
        if rest:
            # The file goes on where the answer ends.
            self.spill.write(f"{stream}.txt", bytes(kept[-rest:]))
            del kept[-rest:]
        path = self.spill.directory / f"{stream}.txt"
        self._markers[stream] = (
            f"\n[kernelagent: {stream} exceeds the output budget; the rest is in {path}]\n"
        )


class PassedOutput:
    """Output on its way to a client, in order; what waits is bounded, as the command waits too."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._rests = dict.fromkeys(STREAMS, b"")
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._abandoned = False
        self.backlog_bytes = 0
        self.totals = dict.fromkeys(STREAMS, 0)

    def write(self, stream: str, data: bytes) -> None:
        """Take a piece; never waits."""
        self.totals[stream] += len(data)
        if self._abandoned:
            return
        if self._rests[stream]:
            data = self._rests[stream] + data
        rest = incomplete(data)
        self._rests[stream] = data[len(data) - rest :]
        self._put(stream, data[: len(data) - rest] if rest else data)

    async def drained(self) -> None:
        """Wait until the client has taken enough of it."""
        while self.backlog_bytes > _ROOM and not self._closed:
            self._room.clear()
            await self._room.wait()

    def abandon(self) -> None:
        """Nobody reads any more: what comes is counted, and not kept."""
        self._abandoned = True
        self._rests = dict.fromkeys(STREAMS, b"")
        self._waiting.clear()
        self.backlog_bytes = 0
        self.close()

    def close(self) -> None:
        """Nothing more will come."""
        for stream in STREAMS:
            rest, self._rests[stream] = self._rests[stream], b""
            self._put(stream, rest)
        self._closed = True
        self._ready.set()
        self._room.set()

    async def next(self) -> list[tuple[str, bytes]]:
        """All that waits, streams joined, at least one piece; empty once all is read."""
        await self._ready.wait()
        taken = list(self._joined())
        self._waiting.clear()
        self.backlog_bytes = 0
        self._room.set()
        if not self._closed:
            self._ready.clear()
        return taken

    def _put(self, stream: str, data: bytes) -> None:
        if data:
            self._waiting.append((stream, data))
            self.backlog_bytes += len(data)
            self._ready.set()

    def _joined(self) -> Iterator[tuple[str, bytes]]:
        name, size = "", 0
        gathered: list[bytes] = []
        for stream, data in self._waiting:
            if gathered and (stream != name or size + len(data) > LONGEST_PIECE):
                yield from _divided(name, gathered)
                gathered, size = [], 0
            name = stream
            gathered.append(data)
            size += len(data)
        yield from _divided(name, gathered)


def _divided(stream: str, gathered: list[bytes]) -> Iterator[tuple[str, bytes]]:
    data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
    for piece in pieces(data, LONGEST_PIECE):
        yield stream, piece
