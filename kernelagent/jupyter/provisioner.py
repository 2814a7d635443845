"""How a kernel's process comes to be: the seam between kernels and processes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from kernelagent.process import ChildProcess, ExitStatus

# traitlets gives the base class an untyped metaclass.
_Base: Any = KernelProvisionerBase


class PlainProvisioner(_Base):  # type: ignore[misc]
    """Starts each kernel as a process of its own, whatever its language.

    `Kernel.start` takes the class: another way to make processes is a subclass, and nothing above
    changes. `Kernel` calls `launch_kernel` once, then watches `exited`; after `kill` nothing of the
    kernel is left. A subclass must keep these promises: `pid` is the kernel's process id, `exited`
    is done within 100 ms of its end, `stderr_tail` tells its last words, and a kernel does not
    outlive the service.
    """

    child: ChildProcess | None = None

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
    def _running(self) -> ChildProcess:
        if self.child is None:
            raise RuntimeError("the kernel was not launched")
        return self.child

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start `cmd` with `env` in directory `cwd`; raises OSError."""
        self.child = ChildProcess.start(
            cmd, env=kwargs["env"], cwd=Path(kwargs["cwd"]), marker=self.kernel_id
        )
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
