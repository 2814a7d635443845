"""ZeroMQ sockets without streams around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zmq
from zmq.eventloop.zmqstream import ZMQStream


def received(sock: Any, *, copy: bool = True) -> Iterator[list[Any]]:
    """What waits on `sock`, message by message.

    Its descriptor is edge-triggered, and sending uses its readiness up: to be asked after both.
    """
    while int(sock.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        yield sock.recv_multipart(zmq.NOBLOCK, copy=copy)


class DirectStream(ZMQStream):  # type: ignore[misc,unused-ignore] # untyped base
    """Stands where ipykernel expects a stream: sends at once, and knows its socket."""

    def __init__(self, sock: Any) -> None:
        # None of the base's: it would register with an event loop.
        self.socket = sock

    def send_multipart(self, msg: Any, *_: Any, **__: Any) -> None:
        self.socket.send_multipart(msg)

    def flush(self, *_: Any, **__: Any) -> int:
        """Nothing waits here."""
        return 0

    def closed(self) -> bool:
        return bool(self.socket.closed)
