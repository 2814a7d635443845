"""How a lean kernel takes requests: from the socket one by one, with little around them."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

from ipykernel.jsonutil import json_clean
from ipykernel.kernelbase import Kernel
from jupyter_client.session import DELIM

from kernelagent_python.lean.interrupts import Interrupts
from kernelagent_python.lean.sockets import DirectStream, received

Message = dict[str, Any]
Frames = list[Any]

_REMINDERS = 3
_REMINDER_AFTER = 0.01

# What runs while a cell waits in the event loop: answers of widgets, which it may wait for.
_CONCURRENT = frozenset({"comm_open", "comm_msg", "comm_close"})


class LeanServing(Kernel):  # type: ignore[misc,unused-ignore] # untyped base
    """A kernel without a thread between the socket and the cell; a subclass runs the cells.

    One task works off what has come, in the context that all cells share. Only comm messages are
    handled while a cell awaits something.
    """

    interrupts: Interrupts
    shell_stream: Any

    def __init__(self, **kwargs: Any) -> None:
        self._waiting: deque[Frames] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.on_idle: Callable[[], None] = lambda: None
        super().__init__(**kwargs)

    async def _run(self, content: Message, silent: bool, metadata: Message) -> Message:
        """The reply to an execute_request, whose own code runs in here and nowhere else."""
        raise NotImplementedError

    def _settle_output(self) -> None:
        """Send what the run has put out, before its reply."""

    @property
    def idle(self) -> bool:
        """Whether no request is being handled and none waits."""
        return self._worker is None and not self._waiting

    def listen(self, shell_socket: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Take requests from `shell_socket`, in `loop`, from now on."""
        self.shell_stream = DirectStream(shell_socket)
        self._loop = loop
        loop.add_reader(shell_socket.fd, self._receive)
        loop.call_soon(self._receive)

    def abandon(self) -> None:
        """Forget the socket, the loop and what waits, in a forked child."""
        self.shell_stream = None
        self._loop = None
        self._worker = None
        self._waiting.clear()
        self._main_asyncio_lock = asyncio.Lock()

    def start(self) -> None:
        """As the base's, without what `listen` does."""
        self._publish_status("starting", "shell")

    def _receive(self) -> None:
        self._waiting.extend(received(self.shell_stream.socket, copy=False))
        if self._worker is None:
            self._work_off()
        elif self.interrupts.cancellable:
            self._handle_concurrent()

    def _work_off(self) -> None:
        assert self._loop is not None  # noqa: S101 - `listen` came first
        if self._waiting and self._worker is None:
            worker = self._loop.create_task(self._work(), context=self._context)
            self._worker = worker
            worker.add_done_callback(self._on_worker_done)

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        if self._worker is worker:
            self._worker = None
        if not worker.cancelled() and worker.exception() is not None:
            self.log.error("a request failed inside the kernel", exc_info=worker.exception())
        # None in a branch, which has let go of it.
        if self.shell_stream is not None:
            self._receive()
        if self.idle:
            self.on_idle()

    async def _work(self) -> None:
        while self._waiting:
            frames = self._waiting.popleft()
            await self._handle(frames)
            self._waiting.extend(received(self.shell_stream.socket, copy=False))

    async def _handle(self, frames: Frames) -> None:
        read = self._read(frames)
        if read is None:
            return
        identities, message = read
        interrupts = self.interrupts
        interrupts.expect()
        if message["msg_type"] == "execute_request" and not self._aborting:
            await self._execute(identities, message)
            return
        try:
            await self.dispatch_shell(frames)
        except KeyboardInterrupt:
            interrupts.entered = False
            self._publish_status("idle", "shell")
        finally:
            interrupts.leave()

    def _read(self, frames: Frames) -> tuple[list[bytes], Message] | None:
        """Identities and message; None if it is none that was signed with our key.

        As the session's own, which would turn every date into an object that nobody asks for.
        """
        session = self.session
        try:
            parts = [bytes(frame.buffer) for frame in frames]
            start = parts.index(DELIM)
            signature, *body = parts[start + 1 : start + 6]
            if session.auth is not None and not compare_digest(signature, session.sign(body)):
                raise ValueError("wrong signature")
            header, parent, metadata, content = map(session.unpack, body)
            message = {
                "header": header,
                "msg_id": header["msg_id"],
                "msg_type": header["msg_type"],
                "parent_header": parent,
                "metadata": metadata,
                "content": content,
                "buffers": parts[start + 6 :],
            }
        except Exception:
            self.log.error("Invalid Message", exc_info=True)
            return None
        return parts[:start], message

    def _handle_concurrent(self) -> None:
        for frames in list(self._waiting):
            read = self._read(frames)
            if read is not None and read[1]["msg_type"] in _CONCURRENT:
                self._waiting.remove(frames)
                self._spawn(self._answer_concurrently(frames))

    def _spawn(self, work: Any) -> None:
        assert self._loop is not None  # noqa: S101 - only called by its reader
        # The cell's, which is to be what it was afterwards.
        task = self._loop.create_task(work, context=self._context.copy())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _answer_concurrently(self, frames: Frames) -> None:
        parent = self.get_parent("shell")
        identity = self._get_shell_context_var(self._shell_parent_ident)
        try:
            await self.dispatch_shell(frames, concurrent=True)
        finally:
            self.set_parent(identity, parent, channel="shell")

    async def _execute(self, identities: list[bytes], message: Message) -> None:
        content = message["content"]
        silent = bool(content.get("silent", False))
        self.set_parent(identities, message, channel="shell")
        with self.iopub_thread.together():
            self._publish_status("busy", "shell")
            if not silent:
                self._publish_execute_input(content["code"], message, self.execution_count)
        reply = await self._run(content, silent, message.get("metadata") or {})
        self._settle_output()
        metadata = self.finish_metadata(message, self.init_metadata(message), reply)
        behind: list[Frames] = []
        if reply["status"] == "error" and not silent and content.get("stop_on_error", True):
            # Before the reply: what comes after it was sent by somebody who knows of the failure.
            self._waiting.extend(received(self.shell_stream.socket, copy=False))
            behind = list(self._waiting)
        with self.interrupts.deferred():
            self.session.send(
                self.shell_stream,
                "execute_reply",
                json_clean(reply),
                message,
                metadata=metadata,
                ident=identities,
            )
            self._publish_status("idle", "shell")
        self._abort(behind)

    def _abort(self, behind: list[Frames]) -> None:
        """Answer what waited behind a failed request, which asked for that, with `aborted`."""
        for frames in behind:
            read = self._read(frames)
            if read is not None and read[1]["msg_type"] == "execute_request":
                self._waiting.remove(frames)
                identities, message = read
                self.set_parent(identities, message, channel="shell")
                self._publish_status("busy", "shell")
                self._send_abort_reply(self.shell_stream, message, identities)
                self._publish_status("idle", "shell")

    def pre_handler_hook(self) -> None:
        self.interrupts.enter()

    def post_handler_hook(self) -> None:
        self.interrupts.leave()

    def take_control(self) -> None:
        """Handle what came over the control channel; called by the kernel's thread."""
        for frames in received(self.control_stream.socket, copy=False):
            # An exception would leave what waits behind it unseen.
            if self._read(frames) is not None:
                asyncio.run(self.process_control(frames))

    async def interrupt_request(self, stream: Any, ident: Any, parent: Message) -> None:
        before = self.interrupts.noticed
        await super().interrupt_request(stream, ident, parent)
        # A signal that comes right before the main thread blocks in the system is noticed only when
        # that ends. It is likely here: the main thread gives way to this one when it blocks.
        for _ in range(_REMINDERS):
            await asyncio.sleep(_REMINDER_AFTER)
            if self.interrupts.noticed != before:
                return
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    async def shutdown_request(self, stream: Any, ident: Any, parent: Message) -> None:
        content = {"status": "ok", "restart": parent["content"].get("restart", False)}
        self.session.send(stream, "shutdown_reply", content, parent, ident=ident)
        self._shutdown_message = self.session.msg("shutdown_reply", content, parent)
        await self._at_shutdown()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


warnings.filterwarnings("ignore", "There is no current event loop", DeprecationWarning)
