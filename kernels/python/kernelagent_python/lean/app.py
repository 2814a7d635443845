"""The lean kernel's application: built without sockets, wired up when it is to serve."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from IPython.core.application import BaseIPythonApplication

from kernelagent_python.app import PLOTS
from kernelagent_python.lean.channels import Channels
from kernelagent_python.lean.failures import Failures
from kernelagent_python.lean.interrupts import Interrupts
from kernelagent_python.lean.kernel import LeanKernel
from kernelagent_python.lean.publisher import Publisher, ResultSocket
from kernelagent_python.lean.sockets import DirectStream
from kernelagent_python.lean.streams import LeanStream, make_streams


class LeanApplication(IPKernelApp):  # type: ignore[misc,unused-ignore] # untyped base
    """`prepare` builds all that is Python, `attach` adds what is the system's, `run` serves.

    A prepared application can be forked. One that serves can be forked while its loop stands
    still: the child calls `abandon`, then `attach` for itself.
    """

    kernel: Any
    interrupts: Interrupts
    streams: Sequence[LeanStream]
    # What the fork server says of itself.
    kind = "lean"

    def prepare(self, argv: list[str]) -> None:
        """Build the kernel and its shell; no thread, loop or socket is made."""
        initialize: Any = BaseIPythonApplication.initialize
        initialize(self, argv)
        self.session.check_pid = False
        # Nobody can replay messages into our private sockets; the record of them would grow.
        self.session.digest_history_size = 0
        self.interrupts = Interrupts()
        self.interrupts.install()
        self.publisher = Publisher(self.session, self.interrupts)
        self.iopub_thread = self.publisher
        self.iopub_socket = self.publisher.background_socket
        self.build()
        self.channels: Channels | None = None

    def build(self) -> None:
        """Make the kernel and what belongs to its language; part of `prepare`."""
        self.init_pdb()
        self._redirect()
        self._build_kernel()
        self.init_path()
        self.init_shell()
        self.init_gui_pylab()
        self.init_extensions()
        self.init_code()

    def begin_fresh(self, content: Mapping[str, Any]) -> None:
        """In a forked child: be the fresh kernel that was asked for, in its environment."""
        del content
        self.shell.init_environment()
        os.environ.setdefault("MPLBACKEND", PLOTS)

    def attach(self, info: Mapping[str, Any], listeners: Mapping[str, int]) -> None:
        """Open sockets and pipes by a connection file's content; raises zmq.ZMQError, OSError."""
        # A crash report must get past the pipe that takes fd 2 over.
        self._crash_report = os.dup(2)
        faulthandler.enable(file=self._crash_report, all_threads=False)
        for name in ("shell", "iopub", "stdin", "control", "hb"):
            setattr(self, f"{name}_port", 0)
        self.load_connection_info(dict(info))
        channels = self.channels = Channels(self, listeners, self._send_late)
        sockets, kernel = channels.sockets, self.kernel
        asyncio.set_event_loop(channels.loop)
        kernel.control_stream = DirectStream(sockets["control"])
        kernel.control_thread = channels.thread
        kernel.stdin_socket = sockets["stdin"]
        kernel.record_ports({f"{name}_port": getattr(self, f"{name}_port") for name in sockets})
        self.publisher.attach(sockets["iopub"], channels.thread)
        for stream in self.streams:
            stream.attach()
        channels.thread.watch(sockets["control"].fd, kernel.take_control)

    def run(self) -> None:
        """Serve until the loop is stopped, which is how a shutdown and a fork begin."""
        from tornado.ioloop import IOLoop

        assert self.channels is not None  # noqa: S101 - `attach` came first
        loop = self.channels.loop
        if not self.channels.thread.is_alive():
            self.io_loop = self.kernel.io_loop = IOLoop.current()
            self.channels.start()
            self.kernel.listen(self.channels.sockets["shell"], loop)
            self.kernel.start()
        while True:
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                # Raised by user code in a callback of its own: no reason to end.
                continue
            return

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        assert self.channels is not None  # noqa: S101 - `attach` came first
        self.kernel.abandon()
        self.publisher.abandon()
        for stream in self.streams:
            stream.abandon()
        self.channels.abandon()
        faulthandler.disable()
        os.close(self._crash_report)
        self.channels = None

    def close(self) -> None:
        """Send what is left, and close."""
        for stream in self.streams:
            with contextlib.suppress(Exception):
                stream.flush()
        if self.channels is not None:
            self.channels.close()

    def _send_late(self) -> None:
        """Send what was put off for a moment, and no message has followed since."""
        for stream in self.streams:
            stream.flush()
        self.publisher.flush()

    def _redirect(self) -> None:
        self.streams = make_streams(self.session, self.publisher)
        for handler in self.log.handlers:
            if getattr(handler, "stream", None) in (sys.stderr, sys.__stderr__):
                handler.stream = _RawStream(self.streams[1])
        sys.stdout, sys.stderr = self.streams
        self.displayhook = _displayhook(self)
        sys.displayhook = self.displayhook
        self.patch_io()

    def _build_kernel(self) -> None:
        kernel = LeanKernel.instance(
            parent=self,
            session=self.session,
            iopub_thread=self.publisher,
            iopub_socket=self.iopub_socket,
            log=self.log,
            profile_dir=self.profile_dir,
            user_ns=self.user_ns,
        )
        kernel.interrupts = self.interrupts
        kernel.failures = Failures(kernel.shell, self.interrupts)
        kernel.shell.displayhook.pub_socket = ResultSocket(self.publisher)
        self.kernel = kernel
        self.displayhook.get_execution_count = lambda: kernel.execution_count


class _RawStream(io.TextIOBase):
    """The real stderr, past the pipe that takes in what is written to its descriptor."""

    def __init__(self, stream: LeanStream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        copy = self._stream._original_stdstream_copy
        os.write(2 if copy is None else copy, text.encode("utf-8", "replace"))
        return len(text)


def _displayhook(app: Any) -> Any:
    from ipykernel.displayhook import ZMQDisplayHook

    return ZMQDisplayHook(app.session, app.iopub_socket)
