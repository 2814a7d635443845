"""The preloaded process which forks kernels: kept running, replaced when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernelagent.jupyter.forking import ForkChannel, ForkSource, Statuses
from kernelagent.jupyter.languages import Language
from kernelagent.processes.process import PLAIN, ChildProcess, Program, Starter

log = logging.getLogger(__name__)

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 60.0
# One that lived this long is replaced at once.
_SETTLED = 10.0

# What a native library would make of the cores it sees: nothing in the fork server itself.
_SINGLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class State(StrEnum):
    """What can be expected of a fork server."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ForkServerSpec:
    """How to start one; `env` is that of the kernels."""

    language: Language
    env: Mapping[str, str]
    cwd: Path
    preload: Sequence[str]
    stock: bool
    timeout: float
    starter: Starter = PLAIN


class Generation:
    """One process, from its start to its end."""

    def __init__(self, spec: ForkServerSpec) -> None:
        self.statuses = Statuses()
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.channel, theirs = ForkChannel.pair(on_message=self._take, on_lost=self._lose)
        try:
            program = Program(
                [*spec.language.fork_command(theirs), *spec.preload],
                _environment(spec),
                spec.cwd,
                # A forked process writes its own mark over this one, which is as long.
                marker=uuid.uuid4().hex[:16],
                descriptors={theirs: theirs},
            )
            self.process = ChildProcess.start(program, spec.starter)
        except BaseException:
            self.channel.close()
            raise
        finally:
            os.close(theirs)

    @property
    def lean(self) -> bool:
        """Whether its kernels can be branched."""
        return self.hello.done() and self.hello.result().get("kernel") == "lean"

    @property
    def source(self) -> ForkSource:
        """What kernels are forked from."""
        return ForkSource(self.channel, self.statuses, self._adopt)

    async def close(self) -> None:
        """End the process; its kernels, if any are left, go on until their owners end them."""
        self.channel.close()
        await self.process.kill()
        self.statuses.give_up()

    def _adopt(self, pid: int) -> None:
        self.channel.tell({"op": "adopt", "pid": pid})

    def _take(self, message: dict[str, Any]) -> None:
        if message["op"] == "exited":
            self.statuses.put(message["pid"], message["status"])
        elif not self.hello.done():
            self.hello.set_result(message)

    def _lose(self) -> None:
        if not self.hello.done():
            self.hello.set_result({"op": "failed", "reason": ""})
        self.statuses.give_up()


class ForkServer:
    """Keeps one fork server running once it was opened; `close` in any case.

    While it cannot serve, `generation` is None and kernels are started plainly.
    """

    def __init__(self, spec: ForkServerSpec) -> None:
        self._spec = spec
        self._generation: Generation | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._decided = asyncio.Event()
        self.state = State.WAITING
        self.reason = ""
        self.restarts = -1
        self.forks = 0

    @property
    def facts(self) -> dict[str, Any]:
        """For /health."""
        generation = self._generation
        return {
            "state": self.state.value,
            "reason": self.reason,
            "kernel": "" if generation is None else generation.hello.result().get("kernel", ""),
            "pid": None if generation is None else generation.process.pid,
            "forks": self.forks,
            "restarts": max(self.restarts, 0),
        }

    def open(self) -> None:
        """Start it if that was not done; returns at once."""
        if self._keeper is not None or self.state is State.CLOSED:
            return
        self.state = State.STARTING
        self._keeper = asyncio.create_task(self._keep(), name="fork server")

    async def close(self) -> None:
        """End it for good."""
        self.state = State.CLOSED
        self._decided.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def generation(self) -> Generation | None:
        """The process that serves now; waits while one starts, None if it cannot serve."""
        await self._decided.wait()
        generation = self._generation
        return generation if generation is not None and generation.process.running else None

    def fail(self, generation: Generation, reason: str) -> None:
        """A fork went wrong: end that process, so that another one takes its place."""
        if generation is self._generation and generation.process.running:
            log.warning("the fork server is replaced: %s", reason)
            self.reason = reason
            generation.process.send_signal(9)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = _FIRST_BACKOFF
        while True:
            started = loop.time()
            self.restarts += 1
            try:
                await self._serve()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._give_up_for_now(str(error))
            else:
                if loop.time() - started > _SETTLED:
                    backoff = _FIRST_BACKOFF
                    continue
                self._give_up_for_now(self.reason)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _serve(self) -> None:
        """One generation; returns when it has ended, raises what kept it from serving."""
        if self.state is not State.FAILED:
            self.state = State.STARTING
            self._decided.clear()
        generation = Generation(self._spec)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._spec.timeout):
                    await asyncio.shield(generation.hello)
            hello = generation.hello.result() if generation.hello.done() else {}
            if hello.get("op") != "ready":
                raise RuntimeError(await _why(generation, hello, self._spec.timeout))
            self._generation = generation
            self.state, self.reason = State.READY, ""
            self._decided.set()
            status = await asyncio.shield(generation.process.exited)
            self.state = State.STARTING
            self.reason = self.reason or f"it ended with {status.describe()}"
            log.warning("a fork server was lost: %s", self.reason)
        finally:
            self._generation = None
            await _finish(generation.close())

    def _give_up_for_now(self, reason: str) -> None:
        log.warning("kernels are started without a fork server: %s", reason)
        self.state, self.reason = State.FAILED, reason
        self._decided.set()


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Wait for the end of `work` even if cancelled meanwhile; raise CancelledError then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _why(generation: Generation, hello: dict[str, Any], timeout: float) -> str:
    if hello.get("reason"):
        return str(hello["reason"])
    if hello:
        # Its end of the channel is closed: the process ends or has ended.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                status = await asyncio.shield(generation.process.exited)
                last = generation.process.stderr_tail.strip()[-500:]
                return f"it ended with {status.describe()} while it started: {last}"
    return f"it was not ready within {timeout:g} s"


def _environment(spec: ForkServerSpec) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    # OpenBLAS ends its threads before a fork; it may know the cores from the start.
    wanted = spec.env.get("OPENBLAS_NUM_THREADS") or spec.env.get("OMP_NUM_THREADS") or str(cores)
    environment = {
        **spec.language.kernelspec.env,
        **spec.env,
        **dict.fromkeys(_SINGLE, "1"),
        "OPENBLAS_NUM_THREADS": wanted,
        "JPY_PARENT_PID": str(os.getpid()),
    }
    if spec.stock:
        environment["KERNELAGENT_STOCK_KERNEL"] = "1"
    return environment
