"""The application of a host kernel: a lean one whose code runs in the host of a language."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from kernelagent_python.app import ARGUMENTS, without_debugger

with contextlib.ExitStack() as _stack:
    _stack.enter_context(without_debugger())
    from kernelagent_python.lean.app import LeanApplication

from kernelagent_host.interrupts import HostInterrupts
from kernelagent_host.kernel import HostKernel
from kernelagent_host.loading import DriverSpec
from kernelagent_python.packing import pack_any_text


class HostApplication(LeanApplication):
    """A LeanApplication without IPython's shell: nothing of the code runs in this process."""

    kind = "host"
    driver_spec: DriverSpec

    def build(self) -> None:
        self.streams = ()
        interrupts = HostInterrupts()
        interrupts.install()
        self.interrupts = self.publisher.interrupts = interrupts
        kernel = HostKernel.instance(
            parent=self,
            session=self.session,
            iopub_thread=self.publisher,
            iopub_socket=self.iopub_socket,
            log=self.log,
        )
        kernel.interrupts = interrupts
        kernel.die = self.die
        self.kernel = kernel

    def begin_fresh(self, content: Mapping[str, Any]) -> None:
        path, *options = content["driver"]
        self.driver_spec = DriverSpec(path, options)

    def attach(self, info: Mapping[str, Any], listeners: Mapping[str, int]) -> None:
        """Start the host, then be there for clients; raises HostFailed too."""
        kernel: HostKernel = self.kernel
        kernel.interrupts.attach()
        # Whoever finds the kernel ready must find a host that is.
        kernel.start_host(self.driver_spec)
        super().attach(info, listeners)

    def close(self) -> None:
        self.kernel.close_host()
        super().close()

    def die(self, number: int) -> None:
        """End as the host has ended, once all its output is sent."""
        self.close()
        faulthandler.disable()
        # The host's own memory image, if one is wanted, was written when it died.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def prepare_host(argv: Sequence[str] = ()) -> HostApplication:
    """A host application without sockets and without a host."""
    app: HostApplication = HostApplication.instance()
    app.prepare([*ARGUMENTS, *argv])
    pack_any_text(app.session)
    return app


def launch(driver: DriverSpec, argv: Sequence[str]) -> None:
    """Run a kernel until it is shut down; does not return."""
    from kernelagent_python.app import leave

    app = prepare_host(argv)
    app.driver_spec = driver
    with open(app.abs_connection_file, encoding="utf-8") as file:  # noqa: PTH123 - one read
        info = json.load(file)
    app.attach(info, {})
    app.run()
    leave(app)
