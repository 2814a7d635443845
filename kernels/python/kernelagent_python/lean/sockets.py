"""ZeroMQ sockets without streams around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import zmq
from zmq.backend import Socket
from zmq.eventloop.zmqstream import ZMQStream

# The checks and enumerations of zmq.Socket's own methods cost more than the system calls below.
_events = int(zmq.EVENTS)
_readable = int(zmq.POLLIN)
_more = int(zmq.SNDMORE)
_get: Any = Socket.get
_send_part: Any = Socket.send


def send(sock: Any, parts: Sequence[bytes]) -> None:
    """Send one message; a copy of it."""
    last = len(parts) - 1
    for index, part in enumerate(parts):
        _send_part(sock, part, _more if index < last else 0)


def received(sock: Any, *, copy: bool = True) -> Iterator[list[Any]]:
    """What waits on `sock`, message by message.

    Its descriptor is edge-triggered, and sending uses its readiness up: to be asked after both.
    """
    while _get(sock, _events) & _readable:
        yield sock.recv_multipart(zmq.NOBLOCK, copy=copy)


class DirectStream(ZMQStream):  # type: ignore[misc,unused-ignore] # untyped base
    """Stands where ipykernel expects a stream: sends at once, and knows its socket."""

    def __init__(self, sock: Any) -> None:
        # None of the base's: it would register with an event loop.
        self.socket = sock

    def send_multipart(self, msg: Any, *_: Any, **__: Any) -> None:
        send(self.socket, msg)

    def flush(self, *_: Any, **__: Any) -> int:
        """Nothing waits here."""
        return 0

    def closed(self) -> bool:
        return bool(self.socket.closed)
