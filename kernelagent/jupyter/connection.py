"""One kernel's sockets: requests out, and one reader of iopub for the kernel's whole life."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import zmq
from zmq.backend import Socket as RawSocket

from kernelagent.jupyter.messages import BadMessage, Message, Wire

log = logging.getLogger(__name__)

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

# One turn of a reader: other clients of the loop must not wait longer for theirs.
_TURN = 0.004
# Parsing and checking more than this takes milliseconds, so it is done in a thread.
_LARGE_MESSAGE = 512 * 1024

# The checks and enumerations of zmq.Socket's own methods cost more than what is below them.
_EVENTS, _READABLE, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
_SEND_MORE, _RECEIVE_MORE = int(zmq.SNDMORE) | _NOBLOCK, int(zmq.RCVMORE)
_get: Any = RawSocket.get
_send_part: Any = RawSocket.send
_receive_part: Any = RawSocket.recv


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a kernel's sockets are: files below one private directory, and their key."""

    path: Path
    key: str

    @classmethod
    def create(cls, directory: Path, name: str, owner: tuple[int, int] | None = None) -> Endpoint:
        """An endpoint whose connection file is written, `owner`'s; undone by `remove`."""
        endpoint = cls(directory / name, secrets.token_hex(32))
        # Cleaners of temporary directories may have taken it away.
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(endpoint.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            # json.dump would leave a cycle behind.
            file.write(json.dumps(endpoint.info))
        return endpoint

    @property
    def file(self) -> Path:
        """The connection file, in Jupyter's format."""
        return self.path.with_suffix(".json")

    @property
    def info(self) -> dict[str, Any]:
        ports = {f"{channel}_port": n for n, channel in enumerate(CHANNELS, 1)}
        return {
            **ports,
            "transport": "ipc",
            "ip": str(self.path),
            "key": self.key,
            "signature_scheme": "hmac-sha256",
        }

    def socket_path(self, channel: str) -> str:
        return f"{self.path}-{CHANNELS.index(channel) + 1}"

    def url(self, channel: str) -> str:
        return f"ipc://{self.socket_path(channel)}"

    def remove(self) -> None:
        """Delete the connection file and the socket files, those which exist."""
        for path in (self.file, *map(Path, map(self.socket_path, CHANNELS))):
            path.unlink(missing_ok=True)


class Listener(Protocol):
    """Takes everything that answers one request.

    Called on the event loop, in the order of arrival on each channel; must not block or raise.
    """

    def on_iopub(self, message: Message) -> None: ...
    def on_reply(self, message: Message) -> None: ...
    def on_stdin(self, message: Message) -> None: ...


class Connection:
    """The client side of one kernel.

    Every request is entered in the table before it is sent. iopub is read from the start to the
    end whether or not anybody listens, so that the kernel never waits and nothing piles up.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: Endpoint,
        on_unclaimed: Callable[[Message], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(endpoint.key.encode())
        self._listeners: dict[str, Listener] = {}
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._on_unclaimed = on_unclaimed
        self._parsing: dict[str, asyncio.Task[None]] = {}
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self.heard_iopub = asyncio.Event()
        self._stdin_linked = asyncio.Event()
        self._stdin_monitor: zmq.Socket[bytes] | None = None
        self.bad_messages = 0
        self._taken = 0
        try:
            self._connect(context, endpoint)
        except BaseException:
            self.close()
            raise

    def _connect(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint) -> None:
        # The kernel addresses questions to the identity that sent the request on shell.
        identity = self._wire.session.encode()
        for channel in ("shell", "control", "stdin", "iopub"):
            kind = zmq.SUB if channel == "iopub" else zmq.DEALER
            sock = self._sockets[channel] = context.socket(kind)
            sock.linger = 0
            # The kernel may bind later than we connect.
            sock.reconnect_ivl = 5
            # Without a bound: a full queue would make the publisher drop output. What is kept of
            # a run's output is bounded by its budget.
            sock.sndhwm = sock.rcvhwm = 0
            if channel == "iopub":
                sock.subscribe(b"")
            else:
                sock.setsockopt(zmq.IDENTITY, identity)
            if channel == "stdin":
                self._watch_stdin(sock)
            sock.connect(endpoint.url(channel))
            self._loop.add_reader(sock.fileno(), self._drain, channel)
            self._loop.call_soon(self._drain, channel)

    def close(self) -> None:
        """Close the sockets; requests that wait for an answer are cancelled."""
        for task in self._parsing.values():
            task.cancel()
        self._unwatch_stdin()
        for sock in self._sockets.values():
            with contextlib.suppress(zmq.ZMQError, ValueError):
                self._loop.remove_reader(sock.fileno())
            sock.close(0)
        self._sockets.clear()
        for future in self._answers.values():
            future.cancel()
        self._answers.clear()
        self._listeners.clear()
        # It leads back to whoever holds this connection.
        self._on_unclaimed = _ignore

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return not self._sockets

    async def ask(
        self, msg_type: str, content: dict[str, Any], *, channel: str = "shell"
    ) -> Message:
        """Send a request and wait for its reply; cancelled when the connection is closed."""
        msg_id, frames = self._wire.pack(msg_type, content)
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._answers[msg_id] = answer
        try:
            self._send(channel, frames)
            return await answer
        finally:
            self._answers.pop(msg_id, None)

    def tell(self, msg_type: str, content: dict[str, Any], *, channel: str = "shell") -> None:
        """Send a message whose reply nobody waits for."""
        _, frames = self._wire.pack(msg_type, content)
        self._send(channel, frames)

    def execute(self, content: dict[str, Any], metadata: dict[str, Any], listener: Listener) -> str:
        """Send an execute_request whose messages go to `listener` until `forget`."""
        msg_id, frames = self._wire.pack("execute_request", content, metadata=metadata)
        self._listeners[msg_id] = listener
        try:
            self._send("shell", frames)
        except BaseException:
            self.forget(msg_id)
            raise
        return msg_id

    def forget(self, msg_id: str) -> None:
        """Stop listening to a request; what still comes counts as late."""
        self._listeners.pop(msg_id, None)

    def answer_input(self, value: str) -> None:
        """Answer the kernel's question."""
        _, frames = self._wire.pack("input_reply", {"status": "ok", "value": value})
        self._send("stdin", frames)

    async def prove(self, *, greets: bool = False) -> None:
        """Wait until the kernel answers, its output reaches us and it can ask for input.

        A reply alone does not prove the subscription. Kernels of protocol 5.4 greet a subscriber
        by iopub_welcome, which is enough if one is known to; others are asked again until the
        status of an answer arrives on iopub.
        """
        if greets:
            await self.heard_iopub.wait()
            await self._stdin_linked.wait()
            return
        await self.ask("kernel_info_request", {})
        pause = 0.01
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self.heard_iopub.wait()
                    await self._stdin_linked.wait()
                return
            except TimeoutError:
                pause = min(pause * 2, 0.2)
                await self.ask("kernel_info_request", {})

    async def settle(self) -> None:
        """Take in what a dead kernel had sent: until nothing came for 20 ms, 200 ms at most."""
        quiet = 0
        for _ in range(20):
            before = self._taken
            for channel in list(self._sockets):
                self._drain(channel)
            await asyncio.gather(*self._parsing.values(), return_exceptions=True)
            await asyncio.sleep(0.01)
            if self._taken == before and not self._parsing:
                quiet += 1
                if quiet == 2:
                    return
            else:
                quiet = 0

    def _watch_stdin(self, sock: zmq.Socket[bytes]) -> None:
        # A question to a peer that is not linked yet would be dropped without a word.
        monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._stdin_monitor = monitor
        self._loop.add_reader(monitor.fileno(), self._on_stdin_link)
        self._loop.call_soon(self._on_stdin_link)

    def _on_stdin_link(self) -> None:
        if self._stdin_monitor is None:
            return
        try:
            self._stdin_monitor.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self._unwatch_stdin()
        self._stdin_linked.set()

    def _unwatch_stdin(self) -> None:
        monitor, self._stdin_monitor = self._stdin_monitor, None
        if monitor is not None:
            self._loop.remove_reader(monitor.fileno())
            self._sockets["stdin"].disable_monitor()
            monitor.close(0)

    def _send(self, channel: str, frames: list[bytes]) -> None:
        sock = self._sockets[channel]
        last = len(frames) - 1
        for index, frame in enumerate(frames):
            _send_part(sock, frame, _SEND_MORE if index < last else _NOBLOCK)
        # Sending can use up the descriptor's readiness, which is edge-triggered.
        if _get(sock, _EVENTS) & _READABLE:
            self._loop.call_soon(self._drain, channel)

    def _drain(self, channel: str) -> None:
        sock = self._sockets.get(channel)
        if sock is None or channel in self._parsing:
            return
        until = time.monotonic() + _TURN
        # Asking first is cheaper than an exception at the end of each turn.
        while _get(sock, _EVENTS) & _READABLE:
            frames = [_receive_part(sock, _NOBLOCK)]
            while _get(sock, _RECEIVE_MORE):
                frames.append(_receive_part(sock, _NOBLOCK))
            self._taken += 1
            if sum(map(len, frames)) > _LARGE_MESSAGE:
                self._parsing[channel] = self._loop.create_task(self._take_large(channel, frames))
                return
            self._take(channel, frames)
            if time.monotonic() > until:
                self._loop.call_soon(self._drain, channel)
                return

    async def _take_large(self, channel: str, frames: list[bytes]) -> None:
        try:
            message = await asyncio.to_thread(self._unpack, frames)
        finally:
            self._parsing.pop(channel, None)
        if message is not None:
            self._dispatch(channel, message)
        self._drain(channel)

    def _take(self, channel: str, frames: list[bytes]) -> None:
        message = self._unpack(frames)
        if message is not None:
            self._dispatch(channel, message)

    def _unpack(self, frames: list[bytes]) -> Message | None:
        try:
            return self._wire.unpack(frames)
        except BadMessage as error:
            self.bad_messages += 1
            log.warning("a kernel sent a message that was ignored: %s", error)
            return None

    def _dispatch(self, channel: str, message: Message) -> None:
        listener = self._listeners.get(message.parent_id)
        if channel == "iopub":
            self.heard_iopub.set()
            if listener is not None:
                listener.on_iopub(message)
            elif message.parent_id not in self._answers:
                self._on_unclaimed(message)
        elif channel == "stdin":
            if listener is not None:
                listener.on_stdin(message)
        elif listener is not None:
            listener.on_reply(message)
        else:
            answer = self._answers.get(message.parent_id)
            if answer is not None and not answer.done():
                answer.set_result(message)


def _ignore(_: Message) -> None:
    """Nobody wants it any more."""
