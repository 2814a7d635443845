"""What a session remembers of its runs: neither their code nor their output."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from kernelagent.outcome import Outcome
from kernelagent.sessions.execution import Execution, Result

_ENTRIES = 100


@dataclass(slots=True)
class TranscriptEntry:
    """One run."""

    execution_id: str
    execution_count: int | None
    outcome: Outcome
    submitted_at: datetime
    seconds: float


class Transcript:
    """The last 100 runs, the number of all, and the execution count of the kernel of now."""

    def __init__(self) -> None:
        self._entries: deque[TranscriptEntry] = deque(maxlen=_ENTRIES)
        # With the generation of the kernel that it belongs to.
        self._count: tuple[int, int | None] = (0, None)
        self.runs = 0

    def __iter__(self) -> Iterator[TranscriptEntry]:
        return iter(self._entries)

    def add(self, execution: Execution, result: Result, generation: int) -> None:
        """Remember a run on the kernel of that generation."""
        self.runs += 1
        self._entries.append(
            TranscriptEntry(
                execution.id,
                result.execution_count,
                result.outcome,
                execution.submitted_at,
                result.seconds,
            )
        )
        if result.execution_count is not None and not result.state_lost:
            self._count = (generation, result.execution_count)

    def inherit(self, count: int | None, generation: int) -> None:
        """The kernel of that generation is a copy of one whose last run had `count`."""
        self._count = (generation, count)

    def execution_count(self, generation: int) -> int | None:
        """Return the count of the last run on the kernel of that generation; None before it."""
        counted, count = self._count
        return count if counted == generation else None
