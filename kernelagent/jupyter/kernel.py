"""One Jupyter kernel process: started, proven ready, interrupted, ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from kernelagent.errors import DirectoryNotFound, KernelStartFailed
from kernelagent.jupyter.connection import Connection, Endpoint
from kernelagent.jupyter.forking import ChannelLost, ForkSource
from kernelagent.jupyter.languages import Language
from kernelagent.jupyter.memory import KernelMemory
from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.provisioner import PlainProvisioner
from kernelagent.processes.cgroup import MemoryUse
from kernelagent.processes.process import PLAIN, ExitStatus, Starter

log = logging.getLogger(__name__)

# A kernel that is asked to leave runs its exit functions; it may not take longer.
_SHUTDOWN_GRACE = 1.0
_CONFIGURE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Death:
    """Why a kernel is gone."""

    status: ExitStatus
    out_of_memory: bool
    last_words: str
    # Where the limit of its memory group is known to have been the cause.
    excess: MemoryUse | None = None

    def describe(self) -> str:
        """A sentence for people."""
        cause = self.status.describe()
        if self.out_of_memory:
            return f"the kernel was killed because memory ran out ({cause})"
        return f"the kernel died with {cause}"


class Kernel:
    """A running kernel; `start` makes one, `stop` must be awaited in any case."""

    def __init__(
        self,
        language: Language,
        endpoint: Endpoint,
        provisioner: PlainProvisioner,
        memory: KernelMemory,
        name: str,
    ) -> None:
        self.id = name
        self.language = language
        self.endpoint = endpoint
        self.provisioner = provisioner
        self.memory = memory
        self.connection: Connection
        self.on_late: Callable[[Message], None] | None = None
        self.started_at = time.time()
        self.used = False
        # What it has of the sandbox's part of the environment.
        self.sandbox_env: Mapping[str, str] = {}
        self._stopping: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        language: Language,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        kernel_id: str,
        runtime_dir: Path,
        cwd: Path,
        env: Mapping[str, str],
        timeout: float,
        memory: KernelMemory,
        provision: Callable[..., PlainProvisioner] = PlainProvisioner,
        starter: Starter = PLAIN,
        owner: tuple[int, int] | None = None,
    ) -> Kernel:
        """A kernel that answers; raises KernelStartFailed with what it said, leaving nothing.

        `memory` is the kernel's from now on, whatever becomes of it. A process that is asked for a
        copy of itself may refuse: ForkRefused. `starter` starts it, as `owner` if that is given.
        """
        spec = language.kernelspec
        provisioner = provision(kernel_id=kernel_id, kernel_spec=spec)
        try:
            endpoint = Endpoint.create(runtime_dir, kernel_id, owner)
        except OSError as error:
            await memory.close()
            raise _start_failed(language, error) from error
        kernel = cls(language, endpoint, provisioner, memory, kernel_id)
        try:
            provisioner.bind(endpoint)
            kernel.connection = Connection(context, endpoint, kernel._take_unclaimed)
            await provisioner.launch_kernel(
                language.command(endpoint.file),
                env={**spec.env, **env},
                cwd=cwd,
                connection_info=endpoint.info,
                timeout=timeout,
                memory=memory,
                driver=language.driver,
                starter=starter,
            )
            await kernel._wait_until_ready(timeout)
        except BaseException as error:
            await kernel.stop(polite=False)
            if isinstance(error, OSError | ChannelLost):
                raise _start_failed(language, error) from error
            raise
        return kernel

    @property
    def pid(self) -> int:
        return self.provisioner.pid

    @property
    def source(self) -> ForkSource | None:
        """What a copy of this kernel, with all its state, can be had from; None if from nothing."""
        return self.provisioner.source

    @property
    def exited(self) -> asyncio.Future[ExitStatus]:
        return self.provisioner.exited

    @property
    def alive(self) -> bool:
        return self.provisioner.has_process and not self.exited.done()

    def death(self) -> Death:
        """Why the kernel ended; only to be asked once `exited` is done."""
        status = self.exited.result()
        killed = status.signal == signal.SIGKILL
        excess = self.memory.group_excess() if killed else None
        memory = excess is not None or (killed and self.memory.killed_by_system())
        return Death(status, memory, _last_words(self.provisioner.stderr_tail), excess)

    def interrupt(self) -> None:
        """Ask what runs to stop, as Ctrl-C does."""
        if self.language.kernelspec.interrupt_mode == "message":
            self.connection.tell("interrupt_request", {}, channel="control")
            return
        self.provisioner.signal(signal.SIGINT)
        # A kernel that sleeps in its event loop (`await`) sees the signal only when it wakes.
        self.connection.tell("kernel_info_request", {})

    def kill(self) -> None:
        """End the process at once; `stop` is still owed."""
        self.provisioner.signal(signal.SIGKILL)

    async def configure(
        self, env: Mapping[str, str], cwd: Path | None, unset: Sequence[str] = ()
    ) -> None:
        """Set the session's environment and directory for good; raises DirectoryNotFound.

        Only for kernels with a side channel: others are started with them.
        """
        if not env and not unset and cwd is None:
            return
        content: dict[str, Any] = {"op": "configure", "env": dict(env), "unset": list(unset)}
        if cwd is not None:
            content["cwd"] = str(cwd)
        async with asyncio.timeout(_CONFIGURE_TIMEOUT):
            reply = await self.connection.ask("kernelagent_request", content)
        if reply.content.get("status") != "ok":
            raise DirectoryNotFound(str(reply.content.get("evalue")), details={"path": str(cwd)})

    async def stop(self, *, polite: bool = True) -> None:
        """End the kernel and everything it started; remove its files. May be repeated."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(polite))
        # A caller that is cancelled must not leave half a kernel behind.
        await asyncio.shield(self._stopping)

    async def _stop(self, polite: bool) -> None:
        try:
            if polite and self.used and self.alive and not self.connection.closed:
                await self.provisioner.prepare_kill()
                self.connection.tell("shutdown_request", {"restart": False}, channel="control")
                await asyncio.wait([self.exited], timeout=_SHUTDOWN_GRACE)
        finally:
            # Whatever became of the polite part, nothing of the kernel may be left.
            try:
                await self.provisioner.kill()
            finally:
                if hasattr(self, "connection"):
                    self.connection.close()
                self.endpoint.remove()
                await self.memory.close()

    async def _wait_until_ready(self, timeout: float) -> None:
        ready = asyncio.create_task(self.connection.prove(greets=self.provisioner.greets))
        try:
            either: list[asyncio.Future[Any]] = [ready, self.exited]
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return ready.result()
        finally:
            ready.cancel()
        details = {
            "language": self.language.name,
            "stderr": self.provisioner.stderr_tail[-4096:],
        }
        if self.exited.done():
            status = self.exited.result().describe()
            raise KernelStartFailed(
                f"the {self.language.name} kernel ended with {status} while it started",
                details=details,
            )
        raise KernelStartFailed(
            f"the {self.language.name} kernel did not answer within {timeout:g} s of its start",
            details=details,
        )

    def _take_unclaimed(self, message: Message) -> None:
        if self.on_late is not None:
            self.on_late(message)


def _last_words(stderr: str) -> str:
    """The crash report at the end of `stderr`, if there is one; else its last lines."""
    start = stderr.rfind("Fatal Python error")
    return stderr[start:][:2000] if start >= 0 else stderr[-1000:]


def _start_failed(language: Language, error: Exception) -> KernelStartFailed:
    return KernelStartFailed(
        f"the {language.name} kernel cannot be started: {error}",
        details={"language": language.name},
    )
