"""Measures the service: owns what is counted, the look at machine and kernels, the loop's lag."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from kernelagent.commands.service import CommandService
from kernelagent.concurrency import Loop
from kernelagent.execution.cache.service import CachedRuns
from kernelagent.jobs.service import JobService
from kernelagent.observability.brief import Brief
from kernelagent.observability.kernel_memory import KernelMemoryLook
from kernelagent.observability.machine import Machine, Usage
from kernelagent.observability.measurements import Measurements
from kernelagent.sessions.engine import Engine

# Seconds for which what was seen is good enough.
_USAGE_LIFE = 1.0
_FACTS_LIFE = 60.0
_MEMORY_LIFE = 2.0
_LAG_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of the service just now, counted."""

    pools: dict[str, dict[str, Any]]
    fork_servers: dict[str, dict[str, Any]]
    sessions: dict[str, int]
    queued_runs: int
    jobs: dict[str, dict[str, int]]
    commands: int
    checkpoints: dict[str, Any]
    # By language, bytes.
    kernel_memory: dict[str, int]
    cache: dict[str, Any]


class ObservabilityService:
    """Listens to the services and looks at them. `open` first, `close` in any case."""

    def __init__(
        self, engine: Engine, jobs: JobService, commands: CommandService, cached_runs: CachedRuns
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._commands = commands
        self._cached_runs = cached_runs
        self._look = KernelMemoryLook()
        machine = Machine(engine.sandbox.workspace)
        self._usage = Brief(lambda: asyncio.to_thread(machine.usage), _USAGE_LIFE)
        self._facts = Brief(lambda: asyncio.to_thread(machine.facts), _FACTS_LIFE)
        self._kernel_memory = Brief(self._look_at_kernels, _MEMORY_LIFE)
        self._lag_meter = Loop("event loop lag", self._measure_lag)
        self.measurements = Measurements()
        engine.sandbox.observers.add(self.measurements)

    async def open(self) -> None:
        """Begin to watch the event loop."""
        self._lag_meter.open()

    async def close(self) -> None:
        """Look at nothing any more."""
        await self._lag_meter.close()
        for brief in (self._usage, self._facts, self._kernel_memory):
            await brief.close()

    async def usage(self) -> Usage:
        """How busy the machine is; a second old at most."""
        return await self._usage.value()

    async def machine_facts(self) -> dict[str, Any]:
        """What the machine is."""
        return await self._facts.value()

    async def gauges(self) -> Gauges:
        """The state of the service; the memory of kernels is two seconds old at most."""
        kernel_memory = await self._kernel_memory.value()
        sessions = list(self._engine.sessions)
        store = self._cached_runs.store
        # The count first: it drops what has expired.
        entries = len(store)
        return Gauges(
            pools=self._engine.pool_facts,
            fork_servers=self._engine.fork_server_facts,
            sessions=dict(Counter(session.state for session in sessions)),
            queued_runs=sum(session.queued for session in sessions),
            jobs=self._jobs.facts,
            commands=self._commands.running,
            checkpoints=self._engine.checkpoints.facts,
            kernel_memory=kernel_memory,
            cache={
                "entries": entries,
                "bytes": store.bytes,
                "hits": store.statistics.hits,
                "misses": store.statistics.misses,
                "hit_rate": store.statistics.hit_rate,
            },
        )

    async def _look_at_kernels(self) -> dict[str, int]:
        kernels = {kernel.pid: kernel.language.name for kernel in self._engine.kernels}
        return await asyncio.to_thread(self._look.look, kernels)

    async def _measure_lag(self) -> None:
        due = time.monotonic() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        self.measurements.loop_lag.add(max(time.monotonic() - due, 0.0))
