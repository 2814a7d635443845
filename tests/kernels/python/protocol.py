"""Python kernels of every kind, and a front end that speaks the Jupyter protocol with them.

The kernels are lean ones and such of stock classes, each forked by the fork server and started by
itself; the client is jupyter_client's. Where stock ipykernel does not keep a promise, the tests say
so and hold the lean kernel to it alone.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from anyio.from_thread import BlockingPortal, start_blocking_portal
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.session import Session

from kernelagent.jupyter.kernel import Kernel
from kernelagent.sessions.engine import Engine, open_engine
from tests.engines import settings_below
from tests.waiting import PATIENCE, wait_until

LIMIT = PATIENCE


@dataclass(frozen=True)
class Variant:
    """One way to run a Python kernel."""

    lean: bool
    forked: bool

    def __str__(self) -> str:
        return f"{'lean' if self.lean else 'stock'}-{'forked' if self.forked else 'plain'}"


VARIANTS = [Variant(lean, forked) for lean in (True, False) for forked in (True, False)]


class Host:
    """An engine in a thread of its own, for clients that block."""

    def __init__(self, portal: BlockingPortal, engine: Engine) -> None:
        self._portal = portal
        self._engine = engine
        self._shared: Kernel | None = None

    def start(self) -> Kernel:
        """A kernel for one test alone."""
        session = self._portal.call(self._engine.create_session)
        assert session.kernel is not None
        # By its client, which the engine does not see: it is to end in its own way, not by a kill.
        session.kernel.used = True
        return session.kernel

    def shared(self) -> Kernel:
        """The kernel of all tests that leave it as it was."""
        if self._shared is None or not self._shared.alive:
            self._shared = self.start()
        return self._shared

    def give_up(self) -> None:
        """Have the next tests use another kernel."""
        self._shared = None

    def wait_for_end(self, kernel: Kernel) -> int | None:
        """The exit code of a kernel that ends by itself."""

        async def wait() -> int | None:
            return (await asyncio.wait_for(asyncio.shield(kernel.exited), LIMIT)).code

        return self._portal.call(wait)


@contextmanager
def hosting(directory: Path, variant: Variant, **options: Any) -> Iterator[Host]:
    """An engine whose kernels are of one kind; its settings beside that."""
    options = {"lean_kernel": variant.lean, "fork_server": variant.forked, **options}
    with (
        settings_below(directory, **options) as settings,
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(open_engine(settings)) as engine,
    ):
        yield Host(portal, engine)


@dataclass(frozen=True)
class Message:
    """What a kernel said."""

    channel: str
    type: str
    content: dict[str, Any]
    parent: dict[str, Any]
    metadata: dict[str, Any]
    buffers: list[bytes]

    @property
    def parent_id(self) -> str:
        return str(self.parent.get("msg_id", ""))

    @property
    def label(self) -> str:
        """A status by its state, a stream by its name and text, else the type."""
        if self.type == "stream":
            return f"{self.content['name']}: {self.content['text']}"
        return str(self.content["execution_state"]) if self.type == "status" else self.type


def labels_of(messages: list[Message]) -> list[str]:
    """Each message in a word; text that was sent in parts put together."""
    labels: list[str] = []
    stream = None
    for message in messages:
        name = message.content["name"] if message.type == "stream" else None
        if name is not None and name == stream:
            labels[-1] += message.content["text"]
        else:
            labels.append(message.label)
        stream = name
    return labels


@dataclass(frozen=True)
class Cell:
    """All that answers one request, up to its `idle`."""

    reply: Message
    messages: list[Message]

    @property
    def labels(self) -> list[str]:
        return labels_of(self.messages)

    @property
    def outputs(self) -> list[str]:
        """The labels between `execute_input` and `idle`."""
        return self.labels[2:-1]

    def all(self, msg_type: str) -> list[Message]:
        return [message for message in self.messages if message.type == msg_type]

    def one(self, msg_type: str) -> Message:
        (message,) = self.all(msg_type)
        return message

    def text(self, name: str = "stdout") -> str:
        """All text of one stream."""
        return "".join(
            message.content["text"]
            for message in self.all("stream")
            if message.content["name"] == name
        )


class Client:
    """jupyter_client's blocking client, with what it has received."""

    def __init__(self, kernel: Kernel, *, careful: bool) -> None:
        # A stock kernel that is interrupted while it sends can corrupt a message, hang or end: it
        # is given the time to have sent its `ready`.
        self.careful = careful
        self.kernel = kernel
        self.pid = kernel.pid
        self.jupyter = BlockingKernelClient(connection_file=str(kernel.endpoint.file))
        self.jupyter.load_connection_file()
        self.session: Session = self.jupyter.session
        self.iopub: list[Message] = []
        self._replies: list[Message] = []
        # Connected first, and not known to be linked otherwise: a kernel's question to somebody
        # who is not linked yet is dropped without a word.
        self.jupyter.stdin_channel.start()
        self.jupyter.start_channels(hb=False)
        try:
            self._be_heard()
        except BaseException:
            self.close()
            raise

    def _be_heard(self) -> None:
        """Wait until every channel is linked."""
        if self.careful:
            # A stock publisher can overlook a subscription until it sends something.
            while self.silent_on("iopub", 0.1):
                self.reply_to(self.send("kernel_info_request"))
        else:
            self.until(lambda message: message.type == "iopub_welcome")
        self.ask("kernel_info_request", channel="control")

    def close(self) -> None:
        self.jupyter.stop_channels()

    def receive(self, channel: str, timeout: float = LIMIT) -> Message:
        """The next message of a channel."""
        try:
            raw = getattr(self.jupyter, f"{channel}_channel").get_msg(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"the kernel is silent on {channel}") from None
        message = Message(
            channel,
            raw["header"]["msg_type"],
            raw["content"],
            raw["parent_header"],
            raw["metadata"],
            [bytes(buffer) for buffer in raw["buffers"]],
        )
        if channel == "iopub":
            self.iopub.append(message)
        return message

    def silent_on(self, channel: str, seconds: float = 0) -> bool:
        """Whether nothing comes on a channel."""
        sock: zmq.Socket[bytes] = getattr(self.jupyter, f"{channel}_channel").socket
        return not sock.poll(int(seconds * 1000))

    def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Read iopub up to a message."""
        deadline = time.monotonic() + LIMIT
        while True:
            message = self.receive("iopub", max(deadline - time.monotonic(), 0))
            if wanted(message):
                return message

    def until_idle(self, msg_id: str) -> None:
        """Read iopub up to the end of a request, if that has not been read yet."""

        def ends(message: Message) -> bool:
            return message.parent_id == msg_id and message.label == "idle"

        if not any(map(ends, self.iopub)):
            self.until(ends)

    def until_printed(self, text: str, msg_id: str) -> None:
        """Read iopub until a request has printed `text`."""
        printed = ""
        while text not in printed:
            message = self.until(lambda message: message.type == "stream")
            if message.parent_id == msg_id:
                printed += message.content["text"]

    def reply_to(self, msg_id: str, channel: str = "shell") -> Message:
        """The reply to a request, whichever order replies come in."""
        while True:
            for reply in self._replies:
                if reply.parent_id == msg_id:
                    self._replies.remove(reply)
                    return reply
            self._replies.append(self.receive(channel))

    def send(
        self,
        msg_type: str,
        content: dict[str, Any] | None = None,
        *,
        channel: str = "shell",
        buffers: list[bytes] | None = None,
    ) -> str:
        """Send any message; its id."""
        message = self.session.msg(msg_type, content or {})
        sock = getattr(self.jupyter, f"{channel}_channel").socket
        self.session.send(sock, message, buffers=buffers)  # type: ignore[arg-type]
        return str(message["msg_id"])

    def ask(
        self, msg_type: str, content: dict[str, Any] | None = None, *, channel: str = "shell"
    ) -> Cell:
        """Send a request and take its answer."""
        return self.finish(self.send(msg_type, content, channel=channel), channel)

    def about(self, msg_id: str) -> list[Message]:
        """What was heard on iopub of a request so far."""
        return [message for message in self.iopub if message.parent_id == msg_id]

    def hear_more(self, cell: Cell) -> Cell:
        """The cell with what arrives after its `idle`."""
        self.receive("iopub")
        return Cell(cell.reply, self.about(cell.reply.parent_id))

    def execute(self, code: str, **options: Any) -> str:
        """Send an execute_request; its id."""
        return str(self.jupyter.execute(code, **options))

    def run(self, code: str, **options: Any) -> Cell:
        """Run code up to its end."""
        return self.finish(self.execute(code, **options))

    def start(self, code: str, **options: Any) -> str:
        """Run code that prints `ready`, up to there."""
        msg_id = self.execute(code, **options)
        self.until_printed("ready", msg_id)
        if self.careful:
            self.ask("kernel_info_request", channel="control")
        return msg_id

    def finish(self, msg_id: str, channel: str = "shell") -> Cell:
        """Take in all that answers a request: each message names it, `idle` is the last one."""
        self.until_idle(msg_id)
        reply = self.reply_to(msg_id, channel)
        messages = self.about(msg_id)
        assert messages[-1].label == "idle"
        for message in (reply, *messages):
            assert message.parent["session"] == self.session.session
            assert message.parent["msg_type"].removesuffix("_request") == (
                reply.type.removesuffix("_reply")
            )
        return Cell(reply, messages)

    def interrupt(self) -> None:
        """SIGINT, to the process alone, at this very moment."""
        os.kill(self.pid, signal.SIGINT)

    def interrupt_wait(self) -> None:
        """SIGINT, to the process alone, once the code has come to its wait, or to its loop.

        Python notices one that comes right before a call that blocks only when that ends. The
        service sends a second one; here each must count.
        """
        _, began = self._main_thread()
        # What is between two waits takes less of the processor.
        wait_until(lambda: (now := self._main_thread())[0] == "S" or now[1] >= began + 2)
        self.interrupt()

    def _main_thread(self) -> tuple[str, int]:
        """Its state, and how much it has used, in the system's hundredths of a second."""
        stat = Path(f"/proc/{self.pid}/task/{self.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])


@contextmanager
def connected(kernel: Kernel, *, careful: bool = False) -> Iterator[Client]:
    """A client of a kernel."""
    client = Client(kernel, careful=careful)
    try:
        yield client
    finally:
        client.close()


def blocking_until(path: Path) -> str:
    """Code that holds the kernel's main thread until `path` exists."""
    return f"import os, time\nwhile not os.path.exists({str(path)!r}):\n    time.sleep(0.001)\n"


def answer_prompt(client: Client, msg_id: str, value: str) -> Message:
    """Answer the question that a request asks; the question."""
    question = client.receive("stdin")
    assert question.type == "input_request"
    assert question.parent_id == msg_id
    client.jupyter.input(value)
    return question


READY = "print('ready')\n"
WAITS = {
    "sleep": "import time\n" + READY + "time.sleep(1000)",
    "busy loop": READY + "while True: pass",
    "lock": "import threading\nlock = threading.Lock(); lock.acquire()\n"
    + READY
    + "lock.acquire()",
    "select": "import select\n" + READY + "select.select([], [], [], 1000)",
    "printing": "import itertools\n" + READY + "for n in itertools.count(): print(n)",
    # Raw, as IPython's pretty printer can turn an interrupt into another exception and that into
    # an output.
    "displaying": READY + "while True: display({'text/plain': '1'}, raw=True)",
    "subprocess": "import subprocess\n" + READY + "subprocess.run(['sleep', '1000'])",
    "expression": "class Slow:\n    def __repr__(self):\n        print('ready')\n"
    "        while True: pass\nSlow()",
}
INTERRUPTED = ("KeyboardInterrupt", "CancelledError")
