"""iopub: every thread sends its own messages, in the order in which they were made."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from ipykernel.iostream import BackgroundSocket, IOPubThread

from kernelagent_python.lean.interrupts import Interrupts
from kernelagent_python.lean.iothread import IoThread
from kernelagent_python.lean.sockets import received, send
from kernelagent_python.streams import FLUSH_INTERVAL

_RELAY_LENGTHS = 64 * 1024
# A child that publishes without pause must not keep a cell from ending.
_RELAY_LIMIT = 1000


class Publisher(IOPubThread):  # type: ignore[misc,unused-ignore] # untyped base
    """An IOPubThread whose messages do not change threads.

    It outlives the socket: `attach` gives it one, `abandon` takes it away in a forked child. In a
    child that user code forks, messages go to the parent through a relay.
    """

    def __init__(self, session: Any, interrupts: Interrupts) -> None:
        # None of the base's: it would make an event loop, a thread, sockets.
        self.session = session
        self.socket: Any = None
        self.thread: Any = None
        self.background_socket = BackgroundSocket(self)
        self.forked = False
        self.interrupts = interrupts
        self._queue: deque[list[Any]] = deque()
        self._lock = threading.Lock()
        self._owner = 0
        self._gathering = False
        self._relay: tuple[socket.socket, socket.socket] | None = None
        self._relay_lock = threading.Lock()
        os.register_at_fork(
            before=self._lock_for_fork,
            after_in_parent=self._unlock_after_fork,
            after_in_child=self._after_fork_in_child,
        )

    def attach(self, sock: Any, thread: IoThread) -> None:
        """Publish on `sock`; `thread` takes the subscriptions in."""
        self.socket = sock
        self.thread = thread
        self.forked = False
        self._relay = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._relay[0].setblocking(False)
        thread.watch(sock.fd, self._take_subscriptions)
        thread.watch(self._relay[0].fileno(), self.take_relayed)

    def abandon(self) -> None:
        """Forget the socket and what waits to be sent on it."""
        self.socket = None
        self.thread = None
        self._queue.clear()
        if self._relay is not None:
            for end in self._relay:
                end.close()
            self._relay = None

    def send_multipart(self, msg: list[Any], *_: Any, **__: Any) -> None:
        """Send now; what other threads or interrupted calls have left goes first."""
        if self.forked:
            self._send_to_parent(msg)
            return
        # Before there is a socket, nobody listens.
        if self.socket is not None:
            self._queue.append(msg)
            if not self._gathering:
                self.flush()

    def add(self, msg: list[Any]) -> None:
        """Send with the `flush` that follows."""
        self._queue.append(msg)

    def put_off(self, msg: list[Any]) -> None:
        """Send with the next message, in 50 ms if none follows."""
        self._queue.append(msg)
        self.thread.set_timer(FLUSH_INTERVAL)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send what this thread publishes in the block in one go, at its end."""
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        # A finaliser or handler that publishes while this thread is sending: the loop below has it.
        me = threading.get_ident()
        if self._owner == me:
            return
        interrupts = self.interrupts
        main = threading.current_thread() is threading.main_thread()
        interrupts.depth += main
        try:
            while self._queue and self.socket is not None:
                with self._lock:
                    self._owner = me
                    try:
                        self._send_queue()
                    finally:
                        self._owner = 0
        finally:
            interrupts.depth -= main
        if main:
            interrupts.raise_pending()

    def take_relayed(self) -> None:
        """Send what forked children have published until now."""
        # Who waits for the lock finds that what the other thread has taken is sent.
        with self._relay_lock:
            for _ in range(_RELAY_LIMIT):
                if self._relay is None:
                    return
                try:
                    lengths, descriptors, _, _ = socket.recv_fds(self._relay[0], _RELAY_LENGTHS, 1)
                except BlockingIOError:
                    return
                with os.fdopen(descriptors[0], "rb") as memory:
                    memory.seek(0)
                    self.send_multipart([memory.read(length) for length in json.loads(lengths)])

    def schedule(self, f: Any) -> None:
        """For those who know the base class: there is no other thread to go to."""
        f()

    def start(self) -> None:
        """Nothing to start: `thread` is the application's."""

    def stop(self) -> None:
        """Nothing to stop."""

    def close(self) -> None:
        """The application closes the socket."""

    @property
    def closed(self) -> bool:
        return self.socket is None

    def _send_queue(self) -> None:
        sock, queue = self.socket, self._queue
        while queue:
            send(sock, queue.popleft())
        self._welcome()

    def _take_subscriptions(self) -> None:
        with self._lock:
            self._owner = threading.get_ident()
            try:
                if self.socket is not None:
                    self._welcome()
            finally:
                self._owner = 0
        self.flush()

    def _welcome(self) -> None:
        for frames in received(self.socket):
            self._handle_subscription(frames)

    def _send_to_parent(self, msg: list[Any]) -> None:
        # By memory that is handed over: any size, in one piece, whoever else sends.
        if self._relay is None:
            return
        parts = [bytes(part) for part in msg]
        descriptor = os.memfd_create("kernelagent-relay", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as memory:
                memory.writelines(parts)
            lengths = json.dumps([len(part) for part in parts]).encode()
            socket.send_fds(self._relay[1], [lengths], [descriptor])
        finally:
            os.close(descriptor)

    def _lock_for_fork(self) -> None:
        # Nobody may be in the middle of a message when the process is copied.
        if self._owner != threading.get_ident():
            self._lock.acquire()

    def _unlock_after_fork(self) -> None:
        if self._owner != threading.get_ident():
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._relay_lock = threading.Lock()
        self._owner = 0
        self._queue.clear()
        self.forked = True


class ResultSocket:
    """Where the display hook sends a cell's value: with the messages that end the cell."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def send_multipart(self, msg: list[Any], *_: Any, **__: Any) -> None:
        publisher = self._publisher
        if publisher.forked:
            publisher.send_multipart(msg)
        elif publisher.socket is not None:
            publisher.put_off(msg)
