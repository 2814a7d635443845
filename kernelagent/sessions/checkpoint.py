"""States of sessions that can be gone back to: processes that keep still, bounded in number and
memory.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kernelagent.errors import CheckpointLimit, CheckpointNotFound
from kernelagent.jupyter.launcher import Parked
from kernelagent.processes.usage import tree_memory

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Checkpoint:
    """One kept state; `memory` is what it took when it was last measured, in bytes."""

    id: str
    session_id: str
    name: str
    execution_count: int | None
    created_at: datetime
    parked: Parked
    memory: int = 0

    async def measure(self) -> int:
        """Bytes that it takes now, pages that it shares with kernels counted in part."""
        self.memory = await asyncio.to_thread(tree_memory, self.parked.process.pid)
        return self.memory


class Checkpoints:
    """The checkpoints of all sessions, oldest first.

    At most `limit` per session and `memory` bytes together. A new one beyond that is refused; if
    those that exist grow beyond it, because the kernels that share their memory go other ways, the
    oldest is given up and `on_loss` is told whose it was and why.
    """

    def __init__(
        self, *, limit: int, memory: int, on_loss: Callable[[Checkpoint, str], None]
    ) -> None:
        self._limit = limit
        self._memory = memory
        self._on_loss = on_loss
        self._kept: dict[str, Checkpoint] = {}
        # What is left of those whose processes have ended.
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, session_id: str) -> list[Checkpoint]:
        """Those of one session, oldest first."""
        return [one for one in self._kept.values() if one.session_id == session_id]

    @property
    def facts(self) -> dict[str, int]:
        """Numbers for /health and the metrics; bytes as last measured."""
        memory = sum(one.memory for one in self._kept.values())
        return {"count": len(self._kept), "memory": memory, "memory_limit": self._memory}

    def find(self, session_id: str, checkpoint_id: str) -> Checkpoint:
        """Raises CheckpointNotFound."""
        found = self._kept.get(checkpoint_id)
        if found is None or found.session_id != session_id:
            raise CheckpointNotFound(
                "the session has no checkpoint with this id",
                details={"checkpoint_id": checkpoint_id[:64]},
            )
        return found

    async def make(
        self,
        session_id: str,
        name: str,
        execution_count: int | None,
        park: Callable[[], Awaitable[Parked]],
    ) -> Checkpoint:
        """Keep the state of the process that `park` gives; raises CheckpointLimit.

        One at a time for each session.
        """
        if len(self.of(session_id)) >= self._limit:
            raise CheckpointLimit(
                f"a session may have {self._limit} checkpoints; delete one first",
                details={"limit": self._limit},
            )
        used = await self._measure()
        if used >= self._memory:
            raise CheckpointLimit(
                f"the checkpoints take {used >> 20} MiB of the {self._memory >> 20} MiB that they "
                "may; delete one first",
                details={"used": used, "limit": self._memory},
            )
        parked = await park()
        checkpoint = Checkpoint(
            uuid.uuid4().hex[:12], session_id, name, execution_count, datetime.now(UTC), parked
        )
        self._kept[checkpoint.id] = checkpoint
        parked.process.exited.add_done_callback(lambda _: self._on_exit(checkpoint))
        await checkpoint.measure()
        return checkpoint

    async def delete(self, session_id: str, checkpoint_id: str) -> None:
        """Give one up; kernels that were restored from it go on. Raises CheckpointNotFound."""
        checkpoint = self.find(session_id, checkpoint_id)
        del self._kept[checkpoint.id]
        await checkpoint.parked.close()

    async def delete_all(self, session_id: str | None = None) -> None:
        """Give up those of one session, or all there are."""
        doomed = self.of(session_id) if session_id is not None else list(self._kept.values())
        for checkpoint in doomed:
            self._kept.pop(checkpoint.id, None)
        await asyncio.gather(*(checkpoint.parked.close() for checkpoint in doomed), *self._ending)

    async def keep_within_memory(self) -> None:
        """Give up the oldest until the rest takes no more than it may."""
        used = await self._measure()
        while used > self._memory and self._kept:
            oldest = next(iter(self._kept.values()))
            del self._kept[oldest.id]
            used -= oldest.memory
            self._lose(
                oldest, f"the checkpoints took more than the {self._memory >> 20} MiB they may"
            )
            await oldest.parked.close()

    async def _measure(self) -> int:
        return sum([await checkpoint.measure() for checkpoint in list(self._kept.values())])

    def _on_exit(self, checkpoint: Checkpoint) -> None:
        if self._kept.pop(checkpoint.id, None) is not None:
            status = checkpoint.parked.process.exited.result().describe()
            self._lose(checkpoint, f"its process ended with {status}")
            ending = asyncio.create_task(checkpoint.parked.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _lose(self, checkpoint: Checkpoint, reason: str) -> None:
        log.warning("checkpoint %s was lost: %s", checkpoint.id, reason)
        self._on_loss(checkpoint, f"checkpoint {checkpoint.id} was lost: {reason}")
