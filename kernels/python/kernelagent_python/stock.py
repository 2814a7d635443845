"""A kernel of ipykernel's own classes, for interpreters in which the lean one was not tested."""

from __future__ import annotations

from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp

from kernelagent_python.kernel import KernelagentKernel
from kernelagent_python.streams import PromptOutStream


class StockApplication(IPKernelApp):  # type: ignore[misc,unused-ignore] # untyped base
    """IPKernelApp with our kernel and streams; `listeners` are sockets that the server made."""

    listeners: dict[str, int]

    def __init__(self, **kwargs: Any) -> None:
        stream = f"{PromptOutStream.__module__}.{PromptOutStream.__qualname__}"
        super().__init__(kernel_class=KernelagentKernel, outstream_class=stream, **kwargs)
        self.listeners = {}

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        # It serves subshells, which our client does not use, and each message of a cell
        # would pass through it.
        self.shell_channel_thread = None

    def init_kernel(self) -> None:
        super().init_kernel()
        backend = "matplotlib_inline.backend_inline"
        import sys

        # Where it was imported before there was a shell, it has registered nothing.
        if backend in sys.modules:
            sys.modules[backend]._enable_matplotlib_integration()

    def serve(self) -> None:
        """As `start`, but an interrupt that comes between two cells does not end the kernel."""
        from tornado.ioloop import IOLoop

        self.kernel.start()
        self.io_loop = IOLoop.current()
        while True:
            try:
                self.io_loop.start()
            except KeyboardInterrupt:
                # It was meant for a cell that had just ended, and hit the loop instead.
                continue
            # It may still tell that it is idle, and would block for ever, and so would we, if
            # iopub were closed meanwhile.
            self.control_thread.join(1)
            return

    def _bind_socket(self, s: Any, port: int) -> Any:
        # A full queue makes a publisher drop messages without a word, and a thousand fill
        # it when the machine is busy. Our client reads always.
        if s.getsockopt(zmq.TYPE) == zmq.XPUB:
            s.sndhwm = 0
            # Every client is to be greeted, not only the first one.
            s.setsockopt(zmq.XPUB_VERBOSE, 1)
        for channel, descriptor in self.listeners.items():
            if getattr(self, f"{channel}_port") == port:
                s.setsockopt(zmq.USE_FD, descriptor)
        return super()._bind_socket(s, port)
