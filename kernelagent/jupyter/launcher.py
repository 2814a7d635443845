"""Starts kernels: forked where that is possible, plainly where it is not."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from kernelagent.errors import (
    ApiError,
    BranchRefused,
    ConfigurationError,
    InternalError,
    KernelStartFailed,
    ServiceClosing,
)
from kernelagent.jupyter.forking import ChannelLost, ForkedProcess, ForkRefused, ForkSource
from kernelagent.jupyter.forkserver import ForkServer, ForkServerSpec, Generation
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.languages import Language, Languages
from kernelagent.jupyter.memory import KernelMemory, default_limit
from kernelagent.jupyter.provisioner import ForkProvisioner, PlainProvisioner
from kernelagent.leftovers import GROUPS_PREFIX, RUNTIME_PREFIX
from kernelagent.observers import KernelStarted
from kernelagent.processes.cgroup import MemoryGroups
from kernelagent.sandbox import Sandbox
from kernelagent.settings import Settings

log = logging.getLogger(__name__)

_LONGEST_SOCKET_PATH = 107
_SOCKET_DIR = "k"
# A kernel that does not run code takes milliseconds for a copy of itself.
_COPY_TIMEOUT = 30.0


class Launcher:
    """Owns what all kernels share: the ZeroMQ context, the directory of their sockets, the fork
    servers and the folder of their memory groups. `open` first, `close` in any case.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._settings = settings = sandbox.settings
        # By language; languages whose kernels one process can fork share it.
        self._fork_servers: dict[str, ForkServer] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._runtime_dir: Path | None = None
        # In it, if what runs is of another user; its entries are that user's.
        self._socket_dir: Path | None = None
        self._groups: MemoryGroups | str = "not opened"
        self.memory_limit = settings.kernel_memory or default_limit()

    @property
    def runtime_dir(self) -> Path | None:
        """The directory of sockets and connection files, once there is one."""
        return self._runtime_dir

    @property
    def places(self) -> list[str]:
        """Directories that are left if the service is killed."""
        groups = self._groups.folder if isinstance(self._groups, MemoryGroups) else None
        return [str(path) for path in (self._runtime_dir, groups) if path is not None]

    @property
    def fork_server_facts(self) -> dict[str, dict[str, Any]]:
        """The state of each fork server, by language."""
        return {name: server.facts for name, server in self._fork_servers.items()}

    @property
    def memory_facts(self) -> dict[str, Any]:
        """How the memory of kernels is limited."""
        by_group = isinstance(self._groups, MemoryGroups)
        return {
            "limit": self.memory_limit,
            "by": "cgroup" if by_group else "watching",
            "reason": "" if by_group else self._groups,
        }

    async def open(self, languages: Languages) -> None:
        """Make the directory and start the fork servers, whose readiness is not waited for.

        One whose languages have no pools starts with the first kernel.
        """
        self._runtime_dir = await asyncio.to_thread(_make_runtime_dir, self._settings)
        self._socket_dir = self._runtime_dir
        if (owner := self._sandbox.owner) is not None:
            self._socket_dir = await asyncio.to_thread(_make_socket_dir, self._runtime_dir, owner)
        name = f"{GROUPS_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._groups = await asyncio.to_thread(MemoryGroups.open, name)
        self._context = zmq.Context()
        # One file descriptor per socket and peer; the default of 1023 ends at 250 kernels.
        self._context.set(zmq.MAX_SOCKETS, 8192)
        opened: dict[str, ForkServer] = {}
        for language in languages:
            if language.available and language.can_fork and self._settings.fork_server:
                key = language.fork_key
                if key not in opened:
                    opened[key] = self._make_fork_server(language)
                self._fork_servers[language.name] = opened[key]
                if self._settings.pool_size(language.name, *language.aliases) or language.preload:
                    opened[key].open()

    async def close(self) -> None:
        """Called when all kernels have ended; nothing is left behind."""
        servers = set(self._fork_servers.values())
        await asyncio.gather(*(server.close() for server in servers))
        if self._context is not None:
            await asyncio.to_thread(self._context.destroy, 0)
        if isinstance(self._groups, MemoryGroups):
            await asyncio.to_thread(self._groups.close)
        if self._runtime_dir is not None:
            await asyncio.to_thread(shutil.rmtree, self._runtime_dir, ignore_errors=True)

    async def start(
        self, language: Language, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Kernel:
        """A fresh kernel; raises KernelStartFailed.

        `env` and `cwd` are for kernels that cannot be told later. If the fork server fails at it,
        it is replaced, and this kernel is started plainly.
        """
        started = time.monotonic()
        how = "spawned"
        try:
            kernel = await self._start(language, env or {}, cwd)
            if isinstance(kernel.provisioner, ForkProvisioner):
                how = "forked"
        except Exception as error:
            self._tell_start(language, how, started, error)
            raise
        self._tell_start(language, how, started)
        return kernel

    async def _start(self, language: Language, env: Mapping[str, str], cwd: Path | None) -> Kernel:
        launch = partial(self._launch, language, env=env, cwd=cwd)
        server = self._fork_servers.get(language.name)
        generation = None
        if server is not None:
            server.open()
            generation = await server.generation()
        if server is not None and generation is not None:
            try:
                kernel = await launch(_forked_by(generation))
            except ForkRefused as error:
                # The system is short of something, which is not the fork server's fault.
                log.warning("a kernel is started by itself: %s", error)
            except KernelStartFailed as error:
                if isinstance(error.__cause__, OSError):
                    # We are short of something; the fork server was not even asked.
                    raise
                server.fail(generation, str(error))
            else:
                server.forks += 1
                return kernel
        return await launch(PlainProvisioner)

    async def copy(self, language: Language, source: ForkSource, *, force: bool = False) -> Kernel:
        """A kernel with all the state of the process behind `source`.

        Raises BranchRefused, KernelStartFailed.
        """
        provision = partial(ForkProvisioner, source, fresh=False, force=force)
        started = time.monotonic()
        try:
            kernel = await self._launch(language, provision)
        except ForkRefused as error:
            refusal = _refused(error)
            self._tell_start(language, "copied", started, refusal)
            raise refusal from None
        except Exception as error:
            self._tell_start(language, "copied", started, error)
            raise
        self._tell_start(language, "copied", started)
        return kernel

    async def park(self, source: ForkSource, *, force: bool = False) -> Parked:
        """A process that keeps the state of the one behind `source`, and runs nothing.

        Raises BranchRefused, KernelStartFailed.
        """
        marker = uuid.uuid4().hex[:16]
        memory = await self._make_memory(marker)
        content = {"op": "park", "marker": marker, "force": force}
        try:
            process = await source.fork(
                content, {}, join_file=memory.join_file, timeout=_COPY_TIMEOUT
            )
        except BaseException as error:
            await memory.close()
            raise _translated(error) from None
        parked = Parked(process, memory)
        try:
            await _until_begun(process)
        except BaseException as error:
            await parked.close()
            raise _translated(error) from None
        return parked

    async def _launch(
        self,
        language: Language,
        provision: Callable[..., PlainProvisioner],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Kernel:
        if self._context is None or self._socket_dir is None:
            raise ServiceClosing("the service has not started")
        env = self._sandbox.environment.of_kernel(env)
        if language.has_lean_kernel and not self._settings.lean_kernel:
            env["KERNELAGENT_STOCK_KERNEL"] = "1"
        kernel_id = uuid.uuid4().hex[:16]
        memory = await self._make_memory(kernel_id)
        return await Kernel.start(
            language,
            self._context,
            kernel_id=kernel_id,
            runtime_dir=self._socket_dir,
            cwd=cwd or self._settings.workspace,
            env=env,
            timeout=self._settings.kernel_start_timeout,
            memory=memory,
            provision=provision,
            starter=self._sandbox.starter,
            owner=self._sandbox.owner,
        )

    def _tell_start(
        self, language: Language, how: str, started: float, error: Exception | None = None
    ) -> None:
        code = ""
        if error is not None:
            code = error.code if isinstance(error, ApiError) else InternalError.code
        seconds = time.monotonic() - started
        self._sandbox.observers.tell(KernelStarted(language.name, how, seconds, code))

    async def _make_memory(self, name: str) -> KernelMemory:
        group = None
        if isinstance(self._groups, MemoryGroups):
            try:
                group = await asyncio.to_thread(self._groups.create, name, self.memory_limit)
            except OSError as error:
                log.warning("a kernel's memory is only watched: %s", error)
        return KernelMemory(self.memory_limit, group)

    def _make_fork_server(self, language: Language) -> ForkServer:
        settings = self._settings
        spec = ForkServerSpec(
            language,
            self._sandbox.environment.of_kernel(),
            settings.workspace,
            settings.preload
            if settings.preload is not None and language.preload
            else language.preload,
            not settings.lean_kernel,
            settings.kernel_start_timeout,
            self._sandbox.starter,
        )
        return ForkServer(spec)


async def _until_begun(process: ForkedProcess) -> None:
    """Wait until a parked process stands by itself; raises ChannelLost."""
    either: list[asyncio.Future[Any]] = [process.begun, process.exited]
    await asyncio.wait(either, timeout=_COPY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    if not process.begun.done():
        raise ChannelLost("the copy has ended or does not answer")


class Parked:
    """A process that only keeps a state; `close` must be awaited."""

    def __init__(self, process: ForkedProcess, memory: KernelMemory) -> None:
        self.process = process
        self._memory = memory
        # What the kernel it was made from had of the sandbox's part of the environment.
        self.sandbox_env: Mapping[str, str] = {}

    @property
    def source(self) -> ForkSource:
        """What kernels with this state are forked from."""
        return self.process.source

    async def close(self) -> None:
        """End it; the kernels that were forked from it go on."""
        try:
            await self.process.kill()
        finally:
            await self._memory.close()


def _forked_by(generation: Generation) -> Callable[..., PlainProvisioner]:
    return partial(ForkProvisioner, generation.source, fresh=True, branchable=generation.lean)


def _translated(error: BaseException) -> BaseException:
    """What a caller sees when a copy that shall keep still could not be made."""
    if isinstance(error, ForkRefused):
        return _refused(error)
    if isinstance(error, ChannelLost):
        return KernelStartFailed(f"no checkpoint could be made: {error}")
    return error


def _refused(error: ForkRefused) -> BranchRefused:
    forceable = error.code == BranchRefused.code
    way_out = "; `force` copies the kernel all the same" if forceable else ""
    return BranchRefused(f"{error}{way_out}")


def _make_socket_dir(above: Path, owner: tuple[int, int]) -> Path:
    """A folder of `owner` in one that is ours: nobody else can put another in its place."""
    above.chmod(0o711)
    folder = above / _SOCKET_DIR
    folder.mkdir(0o700)
    os.chown(folder, *owner)
    return folder


def _make_runtime_dir(settings: Settings) -> Path:
    parent = settings.runtime_parent
    parent.mkdir(parents=True, exist_ok=True)
    runtime_dir = Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=parent))
    longest = len(str(runtime_dir / _SOCKET_DIR / ("x" * 16))) + 2
    if longest > _LONGEST_SOCKET_PATH:
        runtime_dir.rmdir()
        raise ConfigurationError(
            f"KERNELAGENT_RUNTIME_DIR is too long for socket paths: {runtime_dir}"
        )
    return runtime_dir
