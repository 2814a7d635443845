"""What a lean kernel has of the operating system: sockets, their context, one thread, a loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from kernelagent_python.lean.iothread import IoThread
from kernelagent_python.lean.sockets import received

_KINDS = {
    "shell": zmq.ROUTER,
    "stdin": zmq.ROUTER,
    "control": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "hb": zmq.ROUTER,
}
_LINGER_MS = 1000

# Objects of a parent whose descriptors are gone here: their finalisers must never run.
_buried: list[object] = []


class Channels:
    """Opened as a whole, closed as a whole, or left behind as a whole in a forked child."""

    def __init__(
        self, app: Any, listeners: Mapping[str, int], on_timer: Callable[[], object]
    ) -> None:
        """Bind every socket of `app`'s connection information; raises zmq.ZMQError.

        `listeners` are listening descriptors that others made, by channel: they are taken over.
        """
        before = _descriptors()
        self.loop = asyncio.new_event_loop()
        self.thread = IoThread(on_timer)
        self.context: zmq.Context[Any] = zmq.Context()
        self.sockets: dict[str, Any] = {}
        for channel, kind in _KINDS.items():
            sock = self.sockets[channel] = self.context.socket(kind)
            sock.linger = _LINGER_MS
            if kind == zmq.ROUTER:
                # A client that connects anew under its old identity takes its place.
                sock.router_handover = 1
            else:
                # A full queue makes a publisher drop messages without a word. Our client reads
                # always.
                sock.sndhwm = 0
                # Every client is to be greeted, not only the first one.
                sock.setsockopt(zmq.XPUB_VERBOSE, 1)
            app._apply_curve_server_options(sock)
            if channel in listeners:
                sock.setsockopt(zmq.USE_FD, listeners[channel])
            port = app._bind_socket(sock, getattr(app, f"{channel}_port"))
            setattr(app, f"{channel}_port", port)
        self._address = f"{app.ip}-" if app.transport == "ipc" else ""
        self.thread.watch(self.sockets["hb"].fd, self._echo)
        self._made = _descriptors() - before

    def start(self) -> None:
        """Serve."""
        self.thread.start()

    def close(self) -> None:
        """Send what waits, for a second at most, and close."""
        self.thread.stop()
        for sock in self.sockets.values():
            sock.close()
        self.context.term()

    def abandon(self) -> None:
        """In a forked child: let go of everything without touching what the parent still uses.

        Closing a descriptor does no harm to the parent; unregistering it from a shared epoll or
        closing a socket in ZeroMQ's way would.
        """
        _buried.append(self)
        asyncio.set_event_loop(None)
        for descriptor in self._made | self._connections():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _connections(self) -> set[int]:
        """The connections that were accepted since: they bear the listeners' addresses."""
        found = set()
        for descriptor in _descriptors():
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                name = sock.getsockname()
            if self._address and isinstance(name, str) and name.startswith(self._address):
                found.add(descriptor)
        return found

    def _echo(self) -> None:
        sock = self.sockets["hb"]
        for beat in received(sock):
            sock.send_multipart(beat)


def _descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        # All but the one that the listing itself has opened and closed again.
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found
