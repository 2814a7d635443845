"""How a kernel's process comes to be: the seam between kernels and processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from kernelagent.jupyter.connection import CHANNELS, Endpoint
from kernelagent.jupyter.forking import ForkSource
from kernelagent.jupyter.memory import KernelMemory
from kernelagent.processes.process import ChildProcess, ExitStatus, Program, RunningProcess

# traitlets gives the base class an untyped metaclass.
_Base: Any = KernelProvisionerBase


class PlainProvisioner(_Base):  # type: ignore[misc]
    """Starts each kernel as a process of its own, whatever its language.

    `Kernel.start` takes what makes one: another way to make processes is a subclass, and nothing
    above changes. `Kernel` calls `bind`, then `launch_kernel`, once each, then watches `exited`;
    after `kill` nothing of the kernel is left. A subclass must keep these promises: `pid` is the
    kernel's process id, `exited` is done within 100 ms of its end, `stderr_tail` tells its last
    words, and a kernel does not outlive the service.
    """

    child: RunningProcess | None = None
    # Whether the kernel greets who subscribes to iopub, which proves that it is ready.
    greets = False
    # What a copy of the kernel can be had from.
    source: ForkSource | None = None

    @property
    def has_process(self) -> bool:
        return self.child is not None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def exited(self) -> asyncio.Future[ExitStatus]:
        """Done when the process has ended, with how it ended."""
        return self._running.exited

    @property
    def stderr_tail(self) -> str:
        return self._running.stderr_tail

    @property
    def _running(self) -> RunningProcess:
        if self.child is None:
            raise RuntimeError("the kernel was not launched")
        return self.child

    def bind(self, endpoint: Endpoint) -> None:
        """Make what must exist before a client connects; raises OSError."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start `cmd` with `env` in directory `cwd`, limited by `memory`; raises OSError."""
        # The kernel ends with us: ours by the parent-death signal, others by polling.
        env = {**kwargs["env"], "JPY_PARENT_PID": str(os.getpid())}
        program = Program(cmd, env, Path(kwargs["cwd"]), self.kernel_id)
        self.child = ChildProcess.start(program, kwargs["starter"])
        await kwargs["memory"].admit(self.child.pid)
        info: KernelConnectionInfo = kwargs.get("connection_info", {})
        return info

    async def poll(self) -> int | None:
        return None if self._running.running else await self.wait()

    async def wait(self) -> int | None:
        status = await asyncio.shield(self._running.exited)
        return status.code if status.signal is None else -status.signal

    async def send_signal(self, signum: int) -> None:
        self.signal(signum)

    def signal(self, signum: int) -> None:
        """Signal the kernel and what it started; SIGINT reaches both, as Ctrl-C would."""
        self._running.send_signal(signum, group=signum == signal.SIGINT)

    async def prepare_kill(self) -> None:
        """Called before the kernel is asked to leave by itself: what it started must not escape."""
        await self._running.pin_descendants()

    async def kill(self, restart: bool = False) -> None:  # noqa: ARG002 - jupyter_client's signature
        if self.child is not None:
            await self.child.kill()

    async def terminate(self, restart: bool = False) -> None:
        await self.kill(restart)

    async def cleanup(self, restart: bool = False) -> None:
        await self.kill(restart)


class ForkProvisioner(PlainProvisioner):
    """Has each kernel forked from a process that has all of it in memory already.

    The listening sockets are made here and handed over: a client can connect before the kernel
    exists, and no two kernels can want the same address. With `fresh` the kernel begins with the
    environment and directory that it is given, else it keeps those of the process it is copied
    from.
    """

    greets = True

    def __init__(
        self,
        origin: ForkSource,
        *,
        fresh: bool,
        branchable: bool = True,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._origin = origin
        self._branchable = branchable
        self._fresh = fresh
        self._force = force
        self._endpoint: Endpoint | None = None
        self._listeners: dict[str, socket.socket] = {}

    def bind(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        for channel in CHANNELS:
            listener = self._listeners[channel] = socket.socket(socket.AF_UNIX)
            listener.bind(endpoint.socket_path(channel))
            listener.listen(64)
            listener.setblocking(False)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:  # noqa: ARG002 - nothing is executed
        """Fork; raises ForkRefused, ChannelLost."""
        if self._endpoint is None:
            raise RuntimeError("bind comes first")
        env: Mapping[str, str] = kwargs["env"]
        memory: KernelMemory = kwargs["memory"]
        content = {
            "op": "kernel",
            "info": self._endpoint.info,
            "connection_file": str(self._endpoint.file),
            "marker": self.kernel_id,
            "env": dict(env) if self._fresh else None,
            "cwd": str(kwargs["cwd"]) if self._fresh else None,
            "force": self._force,
            "driver": kwargs["driver"],
        }
        listeners = {name: sock.fileno() for name, sock in self._listeners.items()}
        try:
            self.child = await self._origin.fork(
                content, listeners, join_file=memory.join_file, timeout=kwargs["timeout"]
            )
        finally:
            self._close_listeners()
        self.source = self.child.source if self._branchable else None
        if memory.join_file is None:
            await memory.admit(self.child.pid)
        info: KernelConnectionInfo = kwargs.get("connection_info", {})
        return info

    async def kill(self, restart: bool = False) -> None:
        self._close_listeners()
        await super().kill(restart)

    def _close_listeners(self) -> None:
        for sock in self._listeners.values():
            sock.close()
        self._listeners.clear()
