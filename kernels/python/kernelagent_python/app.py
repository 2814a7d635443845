"""The kernel application: stock ipykernel classes with our kernel, streams and rich data."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without_debugger() -> Iterator[None]:
    """Import ipykernel without debugpy, which costs 110 ms and 8 MiB and is never used here."""
    if "debugpy" in sys.modules:
        yield
        return
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        # User code that imports debugpy itself must find it.
        del sys.modules["debugpy"]


def launch(argv: list[str]) -> None:
    """Run the kernel until it is shut down."""
    # A crash report must reach the server's pipe even after the kernel has taken over fd 2.
    crash_report = os.fdopen(os.dup(2), "w")
    faulthandler.enable(file=crash_report, all_threads=False)
    with _without_debugger():
        import zmq
        from ipykernel.kernelapp import IPKernelApp

        from kernelagent_python.kernel import KernelagentKernel
        from kernelagent_python.leaving import install_exit
        from kernelagent_python.packing import pack_any_text
        from kernelagent_python.rich import install_formatters
        from kernelagent_python.streams import PromptOutStream, flush_before_exit

        class Application(IPKernelApp):  # type: ignore[misc,unused-ignore] # untyped base
            def init_control(self, context: Any) -> None:
                super().init_control(context)
                # It serves subshells, which our client does not use, and each message of a cell
                # would pass through it.
                self.shell_channel_thread = None

            def _bind_socket(self, s: Any, port: int) -> Any:
                # A full queue makes a publisher drop messages without a word, and a thousand fill
                # it when the machine is busy. Our client reads always.
                if s.getsockopt(zmq.TYPE) == zmq.XPUB:
                    s.sndhwm = 0
                return super()._bind_socket(s, port)

        app: Any = Application.instance(
            kernel_class=KernelagentKernel,
            outstream_class=f"{PromptOutStream.__module__}.{PromptOutStream.__qualname__}",
        )
        # No history file: it is shared between kernels, and each one would add a thread.
        app.initialize(["--HistoryManager.enabled=False", *argv])
    pack_any_text(app.session)
    install_exit(app.shell)
    install_formatters(app.shell)
    flush_before_exit()
    # The first cell of a process costs twice as much as the second one: not the user's.
    app.shell.run_cell("None", silent=True)
    app.shell.display_formatter.format(1)
    _serve(app)


def _serve(app: Any) -> None:
    """As `app.start()`, but an interrupt that comes between two cells does not end the kernel."""
    from tornado.ioloop import IOLoop

    app.kernel.start()
    app.io_loop = IOLoop.current()
    while True:
        try:
            app.io_loop.start()
        except KeyboardInterrupt:
            # It was meant for a cell that had just ended, and hit the loop instead.
            continue
        return
