"""Every kind of Python kernel speaks the Jupyter protocol as front ends expect it.

The kernels are lean ones and such of stock classes, each forked by the fork server and started by
itself; the client is jupyter_client's. Where stock ipykernel does not keep a promise, the test says
so and holds the lean kernel to it alone.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import zmq
from anyio.from_thread import BlockingPortal, start_blocking_portal
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.session import Session
from jupyter_core.utils import ensure_event_loop

from kernelagent.jupyter.engine import Engine
from kernelagent.jupyter.kernel import Kernel
from kernelagent.settings import Settings, load_settings

LIMIT = 20.0


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
def hosting(workspace: Path, variant: Variant, **options: Any) -> Iterator[Host]:
    """An engine whose kernels are of one kind; its settings beside that."""
    # A short path: pytest's own are too long for sockets.
    with tempfile.TemporaryDirectory(prefix="ka-test-") as runtime_dir:
        settings: Settings = load_settings(
            workspace=workspace,
            state_dir=workspace / "state",
            runtime_dir=Path(runtime_dir),
            jwt_secret="of-no-use-here-but-of-more-than-32-bytes",
            lean_kernel=variant.lean,
            fork_server=variant.forked,
            pool_idle=0,
            **options,
        )
        with (
            start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
            portal.wrap_async_context_manager(portal.call(Engine, settings)) as engine,
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
        """SIGINT, to the process alone."""
        os.kill(self.pid, signal.SIGINT)


@contextmanager
def connected(kernel: Kernel, *, careful: bool = False) -> Iterator[Client]:
    """A client of a kernel."""
    client = Client(kernel, careful=careful)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Each kind of kernel in turn."""
    kind: Variant = request.param
    return kind


@pytest.fixture(scope="module")
def host(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An engine for all tests of one kind of kernel."""
    with hosting(tmp_path_factory.mktemp("workspace"), variant) as running:
        yield running


@pytest.fixture
def client(host: Host, variant: Variant) -> Iterator[Client]:
    """A client of the shared kernel, which the test must leave ready for the next one."""
    with connected(host.shared(), careful=not variant.lean) as connection:
        try:
            yield connection
            assert connection.run("pass").reply.content["status"] == "ok"
        except BaseException:
            host.give_up()
            raise


def test_a_kernel_is_of_the_kind_that_was_asked_for(client: Client, variant: Variant) -> None:
    code = "print(type(get_ipython().kernel).__name__)"
    assert client.run(code).text() == ("LeanKernel\n" if variant.lean else "KernelagentKernel\n")


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_tells_the_language_and_the_protocol(client: Client, channel: str) -> None:
    answer = client.ask("kernel_info_request", channel=channel)
    content = answer.reply.content
    assert answer.reply.type == "kernel_info_reply"
    assert content["status"] == "ok"
    assert content["protocol_version"].startswith("5.")
    assert content["implementation"] == "ipython"
    assert content["language_info"]["name"] == "python"
    assert "IPython" in content["banner"]
    assert answer.labels == ["busy", "idle"]


def test_everything_a_cell_does_arrives_in_order(client: Client) -> None:
    cell = client.run(
        "import sys\n"
        "for number in range(3):\n"
        "    print(number)\n"
        "    print('-', number, file=sys.stderr)\n"
        "    display(number)\n"
        "print('end', end='')\n"
        "'value'"
    )
    one_round = ["stdout: {}\n", "stderr: - {}\n", "display_data"]
    assert cell.labels[:2] == ["busy", "execute_input"]
    assert cell.outputs == [
        *(label.format(number) for number in range(3) for label in one_round),
        "stdout: end",
        "execute_result",
    ]
    assert cell.labels[-1] == "idle"


def test_the_reply_and_the_outputs_tell_the_same_count(client: Client) -> None:
    first = client.run("'one'")
    second = client.run("'two'")
    count = first.reply.content["execution_count"]
    assert first.reply.type == "execute_reply"
    assert first.reply.content == {
        "status": "ok",
        "execution_count": count,
        "payload": [],
        "user_expressions": {},
    }
    assert first.one("execute_input").content == {"code": "'one'", "execution_count": count}
    assert first.one("execute_result").content == {
        "execution_count": count,
        "data": {"text/plain": "'one'"},
        "metadata": {},
    }
    assert second.reply.content["execution_count"] == count + 1


def test_expressions_are_evaluated_after_the_code(client: Client) -> None:
    reply = client.run("x = 20", user_expressions={"sum": "x + 1", "bad": "x / 0"}).reply
    expressions = reply.content["user_expressions"]
    assert expressions["sum"] == {"status": "ok", "data": {"text/plain": "21"}, "metadata": {}}
    assert expressions["bad"]["status"] == "error"
    assert expressions["bad"]["ename"] == "ZeroDivisionError"
    assert reply.content["status"] == "ok"


def test_expressions_are_not_evaluated_after_an_error(client: Client) -> None:
    reply = client.run("x = 1 / 0", user_expressions={"x": "1"}, stop_on_error=False).reply
    assert reply.content["status"] == "error"
    assert reply.content["user_expressions"] == {}


def test_a_payload_is_in_one_reply_only(client: Client) -> None:
    code = "get_ipython().set_next_input('next', replace=True)"
    (payload,) = client.run(code).reply.content["payload"]
    assert payload == {"source": "set_next_input", "text": "next", "replace": True}
    assert client.run("pass").reply.content["payload"] == []


def test_silent_code_shows_no_value_and_is_not_counted(client: Client) -> None:
    count = client.run("pass").reply.content["execution_count"]
    silent = client.run("print('said'); 'value'", silent=True)
    assert silent.labels == ["busy", "stdout: said\n", "idle"]
    assert silent.reply.content["status"] == "ok"
    assert client.run("pass").reply.content["execution_count"] == count + 1


def test_code_that_is_not_stored_is_not_counted(client: Client) -> None:
    count = client.run("pass").reply.content["execution_count"]
    unstored = client.run("'value'", store_history=False)
    assert unstored.labels == ["busy", "execute_input", "execute_result", "idle"]
    after = client.run("print(In[-2])")
    assert after.reply.content["execution_count"] == count + 1
    assert after.text() == "pass\n"


def test_an_error_is_told_by_an_output_and_by_the_reply(client: Client) -> None:
    cell = client.run("print('before')\n{}['key']", stop_on_error=False)
    error, reply = cell.one("error").content, cell.reply.content
    assert cell.labels == ["busy", "execute_input", "stdout: before\n", "error", "idle"]
    assert (error["ename"], error["evalue"]) == ("KeyError", "'key'")
    assert "KeyError" in error["traceback"][-1]
    assert reply["status"] == "error"
    assert {name: reply[name] for name in error} == error


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("1 +", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException", "BaseException"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("import asyncio; await asyncio.sleep(0); raise ValueError", "ValueError"),
        ("class Bad:\n    def __repr__(self): raise LookupError('bad')\nBad()", "LookupError"),
        ("%nosuchmagic", None),
    ],
)
def test_whatever_ends_a_cell_the_kernel_goes_on(
    client: Client, code: str, name: str | None
) -> None:
    cell = client.run(code, stop_on_error=False)
    if name is None:
        assert "not found" in cell.text("stderr")
    else:
        assert cell.one("error").content["ename"] == name
    assert client.run("print('alive')").text() == "alive\n"


def blocking_until(path: Path) -> str:
    """Code that holds the kernel's main thread until `path` exists."""
    return f"import os, time\nwhile not os.path.exists({str(path)!r}):\n    time.sleep(0.001)\n"


@pytest.mark.parametrize("failing", ["1 / 0", "import asyncio; await asyncio.sleep(0); 1 / 0"])
def test_what_is_queued_behind_an_error_is_aborted(
    client: Client, tmp_path: Path, failing: str
) -> None:
    first = client.execute(blocking_until(tmp_path / "go") + failing)
    queued = [client.execute(f"print({number})") for number in range(3)]
    info = client.send("kernel_info_request")
    # What was sent before has arrived when this is answered.
    client.ask("kernel_info_request", channel="control")
    (tmp_path / "go").touch()
    assert client.finish(first).reply.content["status"] == "error"
    for msg_id in queued:
        cell = client.finish(msg_id)
        assert cell.reply.type == "execute_reply"
        assert cell.reply.content == {"status": "aborted"}
        assert cell.labels == ["busy", "idle"]
    assert client.finish(info).reply.content["status"] == "ok"
    assert client.run("print('next')").text() == "next\n"


def test_what_is_queued_behind_an_error_runs_if_that_is_wished(
    client: Client, tmp_path: Path
) -> None:
    first = client.execute(blocking_until(tmp_path / "go") + "1 / 0", stop_on_error=False)
    queued = [client.execute(f"print({number})") for number in range(3)]
    client.ask("kernel_info_request", channel="control")
    (tmp_path / "go").touch()
    assert client.finish(first).reply.content["status"] == "error"
    assert [client.finish(msg_id).text() for msg_id in queued] == ["0\n", "1\n", "2\n"]


def test_requests_are_answered_in_their_order(client: Client, tmp_path: Path) -> None:
    first = client.execute(blocking_until(tmp_path / "go"))
    sent = [
        client.execute("order = [1]"),
        client.send("is_complete_request", {"code": "1"}),
        client.execute("order.append(2); print(order)"),
    ]
    (tmp_path / "go").touch()
    client.finish(first)
    replies = [client.receive("shell") for _ in sent]
    assert [reply.parent_id for reply in replies] == sent
    client.until_idle(sent[-1])
    of_sent = [message.parent_id for message in client.iopub if message.parent_id in sent]
    assert of_sent == sorted(of_sent, key=sent.index)


def test_a_display_can_be_updated_and_cleared(client: Client) -> None:
    cell = client.run(
        "from IPython.display import HTML, clear_output\n"
        "handle = display(HTML('<b>1</b>'), display_id='mine', metadata={'a': 1})\n"
        "handle.update(HTML('<b>2</b>'))\n"
        "clear_output(wait=True)\n"
        "print('cleared')"
    )
    shown, updated = cell.one("display_data").content, cell.one("update_display_data").content
    assert cell.outputs == [
        "display_data",
        "update_display_data",
        "clear_output",
        "stdout: cleared\n",
    ]
    assert shown["data"]["text/html"] == "<b>1</b>"
    assert shown["metadata"] == {"a": 1}
    assert updated["data"]["text/html"] == "<b>2</b>"
    assert shown["transient"] == updated["transient"] == {"display_id": "mine"}
    assert cell.one("clear_output").content == {"wait": True}


def test_names_are_completed(client: Client) -> None:
    client.run("some_long_name = 1")
    answer = client.ask("complete_request", {"code": "x = some_lo", "cursor_pos": 11})
    content = answer.reply.content
    assert answer.reply.type == "complete_reply"
    assert content["status"] == "ok"
    assert content["matches"] == ["some_long_name"]
    assert (content["cursor_start"], content["cursor_end"]) == (4, 11)
    assert answer.labels == ["busy", "idle"]


def test_names_are_explained(client: Client) -> None:
    found = client.ask("inspect_request", {"code": "print(", "cursor_pos": 6, "detail_level": 0})
    assert found.reply.type == "inspect_reply"
    assert found.reply.content["found"]
    assert "Prints the values" in found.reply.content["data"]["text/plain"]
    nothing = client.ask("inspect_request", {"code": "nosuchname", "cursor_pos": 3})
    assert nothing.reply.content == {"status": "ok", "found": False, "data": {}, "metadata": {}}


@pytest.mark.parametrize(
    ("code", "status"),
    [("1 + 1", "complete"), ("for x in y:", "incomplete"), ("1 = 2", "invalid")],
)
def test_code_is_known_to_be_complete_or_not(client: Client, code: str, status: str) -> None:
    content = client.ask("is_complete_request", {"code": code}).reply.content
    assert content["status"] == status
    assert content.get("indent") == ("    " if status == "incomplete" else None)


def test_the_session_remembers_what_was_run(client: Client) -> None:
    count = client.run("'remembered'").reply.content["execution_count"]
    wanted = {
        "hist_access_type": "range",
        "session": 0,
        "start": count,
        "stop": count + 1,
        "raw": True,
        "output": False,
    }
    answer = client.ask("history_request", wanted)
    ((_, number, code),) = answer.reply.content["history"]
    assert (number, code) == (count, "'remembered'")


def test_magics_and_shell_commands_work(client: Client) -> None:
    cell = client.run("%env KERNELAGENT_TEST=7\n!echo from the shell")
    assert cell.text().splitlines() == ["env: KERNELAGENT_TEST=7", "from the shell"]
    assert client.run("lines = !printf 'a\\nb\\n'\nprint(list(lines))").text() == "['a', 'b']\n"


COMMS = """
import asyncio
heard, answered = [], asyncio.Event()

def on_open(comm, message):
    global opened
    opened = comm
    print("opened with", message["content"]["data"])

    def on_message(message):
        print("heard", message["content"]["data"])
        heard.append(bytes(message["buffers"][0]) if message["buffers"] else None)
        comm.send({"echo": message["content"]["data"]}, buffers=[b"\\0back"])
        answered.set()

    comm.on_msg(on_message)
    comm.on_close(lambda message: print("closed"))

get_ipython().kernel.comm_manager.register_target("echo", on_open)
"""


def open_comm(client: Client) -> str:
    """Register a target and open a comm to it; its id."""
    assert client.run(COMMS).reply.content["status"] == "ok"
    comm_id = os.urandom(8).hex()
    content = {"comm_id": comm_id, "target_name": "echo", "data": {"a": 1}}
    msg_id = client.send("comm_open", content)
    client.until_idle(msg_id)
    assert labels_of(client.about(msg_id)) == ["busy", "stdout: opened with {'a': 1}\n", "idle"]
    return comm_id


def test_a_front_end_opens_a_comm_talks_and_closes_it(client: Client) -> None:
    comm_id = open_comm(client)
    listed = client.ask("comm_info_request", {"target_name": "echo"}).reply.content["comms"]
    assert listed == {comm_id: {"target_name": "echo"}}
    msg_id = client.send("comm_msg", {"comm_id": comm_id, "data": "hi"}, buffers=[b"\0there"])
    echo = client.until(lambda message: message.type == "comm_msg")
    assert echo.parent_id == msg_id
    assert echo.content == {"comm_id": comm_id, "data": {"echo": "hi"}}
    assert echo.buffers == [b"\0back"]
    assert client.run("heard").one("execute_result").content["data"]["text/plain"] == (
        "[b'\\x00there']"
    )
    client.until_idle(client.send("comm_close", {"comm_id": comm_id, "data": {}}))
    assert client.ask("comm_info_request").reply.content["comms"] == {}
    assert client.silent_on("shell")


def test_a_kernel_opens_a_comm(client: Client) -> None:
    cell = client.run(
        "import comm\n"
        "mine = comm.create_comm(target_name='front', data={'x': 1}, buffers=[b'raw'])\n"
        "mine.send({'y': 2}); mine.close()"
    )
    opened = cell.one("comm_open")
    assert opened.content["target_name"] == "front"
    assert opened.content["data"] == {"x": 1}
    assert opened.buffers == [b"raw"]
    assert cell.outputs == ["comm_open", "comm_msg", "comm_close"]


def test_a_cell_can_wait_for_the_answer_of_a_front_end(client: Client) -> None:
    comm_id = open_comm(client)
    waiting = client.start(
        "answered.clear(); print('ready'); await answered.wait(); print('answered')"
    )
    msg_id = client.send("comm_msg", {"comm_id": comm_id, "data": 5})
    cell = client.finish(waiting)
    assert cell.reply.content["status"] == "ok"
    assert cell.text() == "ready\nanswered\n"
    assert labels_of(client.about(msg_id)) == ["stdout: heard 5\n", "comm_msg"]


def answer_prompt(client: Client, msg_id: str, value: str) -> Message:
    """Answer the question that a request asks; the question."""
    question = client.receive("stdin")
    assert question.type == "input_request"
    assert question.parent_id == msg_id
    client.jupyter.input(value)
    return question


def test_a_question_is_put_to_whoever_runs_the_code(client: Client) -> None:
    msg_id = client.execute("print(input('Name? ')); print(input())")
    assert answer_prompt(client, msg_id, "Ada").content == {"prompt": "Name? ", "password": False}
    assert answer_prompt(client, msg_id, "").content == {"prompt": "", "password": False}
    assert client.finish(msg_id).text() == "Ada\n\n"


def test_what_was_printed_before_a_question_is_seen_first(client: Client) -> None:
    msg_id = client.execute("print('no line end', end=''); x = input()")
    question = client.receive("stdin")
    client.until_printed("no line end", msg_id)
    client.jupyter.input("")
    assert question.type == "input_request"
    assert client.finish(msg_id).reply.content["status"] == "ok"


def test_a_password_is_asked_for_as_such(client: Client) -> None:
    msg_id = client.execute("import getpass; print(getpass.getpass('Secret: ')[::-1])")
    question = answer_prompt(client, msg_id, "abc")
    assert question.content == {"prompt": "Secret: ", "password": True}
    assert client.finish(msg_id).text() == "cba\n"


@pytest.mark.parametrize("code", ["input()", "import getpass; getpass.getpass()"])
def test_without_anybody_to_ask_a_question_is_an_error(client: Client, code: str) -> None:
    cell = client.run(code, allow_stdin=False, stop_on_error=False)
    assert cell.reply.content["ename"] == "StdinNotImplementedError"
    assert client.silent_on("stdin")


def test_a_question_in_async_code_is_answered(client: Client) -> None:
    msg_id = client.execute("import asyncio; await asyncio.sleep(0); print(input('?'))")
    answer_prompt(client, msg_id, "async")
    assert client.finish(msg_id).text() == "async\n"


def test_the_end_of_input_is_told(client: Client) -> None:
    msg_id = client.execute("try:\n    input()\nexcept EOFError:\n    print('ended')")
    answer_prompt(client, msg_id, "\x04")
    assert client.finish(msg_id).text() == "ended\n"


def test_a_question_can_be_interrupted_and_a_late_answer_is_not_the_next_ones(
    client: Client,
) -> None:
    msg_id = client.execute("input('first ')", stop_on_error=False)
    assert client.receive("stdin").content["prompt"] == "first "
    client.interrupt()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    client.jupyter.input("late")
    client.ask("kernel_info_request")
    msg_id = client.execute("print(input('second '))")
    assert answer_prompt(client, msg_id, "right").content["prompt"] == "second "
    assert client.finish(msg_id).text() == "right\n"


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


@pytest.mark.parametrize("wait", WAITS)
def test_sigint_interrupts(client: Client, variant: Variant, wait: str) -> None:
    if wait in ("printing", "displaying") and not variant.lean:
        pytest.skip("a stock kernel does not stand an interrupt while it sends")
    msg_id = client.start(WAITS[wait], stop_on_error=False)
    client.interrupt()
    cell = client.finish(msg_id)
    assert cell.reply.content["status"] == "error"
    assert cell.reply.content["ename"] == "KeyboardInterrupt"
    assert cell.one("error").content["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("wait", ["sleep", "subprocess", "busy loop"])
def test_an_interrupt_request_interrupts(client: Client, wait: str) -> None:
    msg_id = client.start(WAITS[wait], stop_on_error=False)
    answer = client.ask("interrupt_request", channel="control")
    assert answer.reply.type == "interrupt_reply"
    assert answer.reply.content == {"status": "ok"}
    assert answer.labels == ["busy", "idle"]
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"


def test_control_is_served_while_code_runs(client: Client) -> None:
    msg_id = client.start(WAITS["busy loop"], stop_on_error=False)
    answer = client.ask("kernel_info_request", channel="control")
    assert answer.reply.content["status"] == "ok"
    assert answer.labels == ["busy", "idle"]
    client.interrupt()
    client.finish(msg_id)


def waiting(seconds: str = "1000") -> str:
    """Code that prints `ready` while it awaits."""
    return f"asyncio.get_running_loop().call_soon(print, 'ready')\nawait asyncio.sleep({seconds})\n"


def test_awaiting_is_interrupted(client: Client, variant: Variant) -> None:
    msg_id = client.start(f"import asyncio\n{waiting()}", stop_on_error=False)
    client.interrupt()
    if not variant.lean:
        # ipykernel issue 881: the handler does not wake the loop, any message does.
        client.send("kernel_info_request")
    cell = client.finish(msg_id)
    assert cell.reply.content["ename"] == cell.one("error").content["ename"] == "CancelledError"


INTERRUPTED = ("KeyboardInterrupt", "CancelledError")


@pytest.mark.parametrize("where", ["the cell", "a task", "a gathered task"])
def test_async_code_that_does_not_await_is_interrupted(
    client: Client, variant: Variant, tmp_path: Path, where: str
) -> None:
    busy = (
        f"await asyncio.sleep(0)\n{READY}{blocking_until(tmp_path / 'go')}await asyncio.sleep(1000)"
    )
    waits = {
        "the cell": busy,
        "a task": "await asyncio.create_task(busy())",
        "a gathered task": "await asyncio.gather(busy(), asyncio.sleep(1000))",
    }
    code = f"import asyncio\nasync def busy():\n{indent(busy, '    ')}\n{waits[where]}"
    msg_id = client.start(code, stop_on_error=False)
    client.interrupt()
    if not variant.lean:
        # Stock code only cancels the cell, which hears of it when it awaits the next time.
        (tmp_path / "go").touch()
        client.send("kernel_info_request")
    at_once = variant.lean and where == "the cell"
    ename = client.finish(msg_id).reply.content["ename"]
    assert ename == "KeyboardInterrupt" if at_once else ename in INTERRUPTED


def test_code_that_survives_an_interrupt_can_be_interrupted_again(client: Client) -> None:
    msg_id = client.start(
        "import time\n"
        "try:\n"
        "    print('ready')\n"
        "    time.sleep(1000)\n"
        "except KeyboardInterrupt:\n"
        "    print('survived')\n"
        "time.sleep(1000)",
        stop_on_error=False,
    )
    client.interrupt()
    client.until_printed("survived", msg_id)
    client.interrupt()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"


def test_async_code_that_survives_an_interrupt_can_be_interrupted_again(
    client: Client, variant: Variant
) -> None:
    msg_id = client.start(
        f"import asyncio\ntry:\n{indent(waiting(), '    ')}"
        "except asyncio.CancelledError:\n    print('survived')\n"
        # Stock code listens once in a cell.
        + (waiting().replace("ready", "again") if variant.lean else "1 / 0"),
        stop_on_error=False,
    )
    client.interrupt()
    if variant.lean:
        client.until_printed("again", msg_id)
        client.interrupt()
    else:
        client.send("kernel_info_request")
    cell = client.finish(msg_id)
    assert "survived" in cell.text()
    assert cell.reply.content["ename"] == (
        "CancelledError" if variant.lean else "ZeroDivisionError"
    )


def test_an_interrupt_between_cells_is_ignored(client: Client) -> None:
    for _ in range(20):
        client.interrupt()
        client.ask("kernel_info_request", channel="control")
    assert client.run("print('alive')").text() == "alive\n"


def test_a_handler_that_code_sets_holds_for_its_cell(client: Client) -> None:
    msg_id = client.start(
        "import os, signal, time\n"
        "caught = []\n"
        "signal.signal(signal.SIGINT, lambda *_: caught.append(1))\n"
        "print('ready')\n"
        "while not caught: time.sleep(0.001)\n"
        "print('handled')",
    )
    client.interrupt()
    assert client.finish(msg_id).text() == "ready\nhandled\n"
    msg_id = client.start(WAITS["sleep"], stop_on_error=False)
    client.interrupt()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    assert client.run("caught").one("execute_result").content["data"]["text/plain"] == "[1]"


def test_an_interrupt_ends_what_is_queued_behind_it(client: Client) -> None:
    msg_id = client.start(WAITS["sleep"])
    queued = client.execute("1")
    client.ask("kernel_info_request", channel="control")
    client.interrupt()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    assert client.finish(queued).reply.content["status"] == "aborted"


def test_an_answer_that_comes_before_a_cell_waits_for_it_is_not_missed(
    client: Client, tmp_path: Path
) -> None:
    comm_id = open_comm(client)
    first = client.execute(blocking_until(tmp_path / "go"))
    waiting = client.execute("answered.clear(); await answered.wait(); print('answered')")
    client.send("comm_msg", {"comm_id": comm_id, "data": 5})
    client.ask("kernel_info_request", channel="control")
    (tmp_path / "go").touch()
    client.finish(first)
    assert client.finish(waiting).text() == "answered\n"


def test_an_answer_that_a_cell_waits_for_does_not_take_its_output_away(
    client: Client, variant: Variant
) -> None:
    comm_id = open_comm(client)
    msg_id = client.start(
        "import os, threading\nanswered.clear()\nprint('ready')\nawait answered.wait()\n"
        # Stock code lets the cell go on before it has put the cell's parent back.
        + ("" if variant.lean else "await asyncio.sleep(0.01)\n")
        + "print('line'); display(1); os.system('echo system')\n"
        "thread = threading.Thread(target=print, args=['thread'])\n"
        "thread.start(); thread.join()"
    )
    client.send("comm_msg", {"comm_id": comm_id, "data": 5})
    cell = client.finish(msg_id)
    assert cell.reply.content["status"] == "ok"
    assert sorted(cell.text().split()) == ["line", "ready", "system", "thread"]
    assert len(cell.all("display_data")) == 1


def test_a_thread_prints_for_its_cell_when_that_has_ended(client: Client) -> None:
    cell = client.run("import threading; threading.Timer(0.02, print, ['late']).start()")
    client.until_printed("late", cell.reply.parent_id)


def test_a_task_prints_for_its_cell_whichever_runs(client: Client) -> None:
    first = client.run(
        "import asyncio\n"
        "async def late():\n"
        "    await asyncio.sleep(0.02); print('late'); display(1)\n"
        "    await go.wait(); print('later'); display(2)\n"
        "go = asyncio.Event()\n"
        "task = asyncio.create_task(late())"
    )
    client.until(lambda message: message.type == "display_data")
    second = client.run("go.set(); await task; print('second')")
    assert second.outputs == ["stdout: second\n"]
    assert labels_of(client.about(first.reply.parent_id)) == [
        *first.labels,
        *("stdout: late\n", "display_data", "stdout: later\n", "display_data"),
    ]


OUTSIDE = {
    "os.system": "os.system('echo out; echo err >&2')",
    "os.write": "os.write(1, b'out\\n'); os.write(2, b'err\\n')",
    "subprocess": "subprocess.run('echo out; echo err >&2', shell=True)",
    "puts": "libc.puts(b'out'); libc.perror(b'err')",
    "printf": "libc.printf(b'%s\\n', b'out'); libc.dprintf(2, b'err\\n')",
    "sys.__stdout__": "print('out', file=sys.__stdout__); print('err', file=sys.__stderr__)",
}


@pytest.mark.parametrize("way", OUTSIDE)
def test_what_is_written_past_python_belongs_to_the_cell(client: Client, way: str) -> None:
    client.run("import ctypes, os, subprocess, sys; libc = ctypes.CDLL(None)")
    for _ in range(10):
        cell = client.run(OUTSIDE[way])
        assert cell.text() == "out\n"
        assert cell.text("stderr").startswith("err")


def test_much_that_is_written_past_python_arrives_whole(client: Client) -> None:
    expected = "".join(f"{number}\n" for number in range(1, 50_001))
    for _ in range(5):
        cell = client.run("import subprocess; subprocess.run(['seq', '50000'])")
        assert cell.text() == expected


CHILD = """
import multiprocessing, os, sys
context = multiprocessing.get_context("fork")

def work(number):
    print("child", number)
    print("error", number, file=sys.stderr)
    display(number)
    return number + 1
"""


def test_a_forked_child_prints_and_displays_for_its_parents_cell(
    client: Client, variant: Variant
) -> None:
    client.run(CHILD)
    for number in range(10):
        cell = client.run(
            f"process = context.Process(target=work, args=[{number}])\n"
            "process.start(); process.join(); print('parent')"
        )
        said, error = [f"child {number}", "parent"], f"error {number}\n"
        if variant.lean:
            assert sorted(cell.text().splitlines()) == said
            assert cell.text("stderr") == error
        else:
            # A stock child sends each part of a print over a connection of its own: they arrive in
            # any order, and `idle` does not wait for them.
            whole = "".join(f"{line}\n" for line in said)
            while len(cell.text() + cell.text("stderr")) < len(whole + error) or (
                not cell.all("display_data")
            ):
                cell = client.hear_more(cell)
            assert sorted(cell.text()) == sorted(whole)
            assert sorted(cell.text("stderr")) == sorted(error)
        assert cell.one("display_data").content["data"]["text/plain"] == str(number)


def test_a_forked_child_displays_without_printing(client: Client, variant: Variant) -> None:
    if not variant.lean:
        pytest.skip("a stock session refuses to send from a fork that has not printed")
    for _ in range(20):
        cell = client.run(
            "import os\nchild = os.fork()\nif not child: display(1); os._exit(0)\n"
            "os.waitpid(child, 0);"
        )
        assert len(cell.all("display_data")) == 1


def test_a_pool_of_forked_children_works(client: Client, variant: Variant) -> None:
    client.run(CHILD)
    cell = client.run("with context.Pool(2) as pool: result = pool.map(work, range(20))\nresult")
    value = cell.one("execute_result").content["data"]["text/plain"]
    assert value == repr(list(range(1, 21)))
    while not variant.lean and len(cell.all("display_data")) < 20:
        cell = client.hear_more(cell)
    assert len(cell.all("display_data")) == 20


def test_a_large_text_arrives_exactly(client: Client) -> None:
    cell = client.run(
        "text = ''.join(chr(33 + n % 94) for n in range(5 << 20))\n"
        "for start in range(0, 1 << 20, 1 << 16): print(text[start : start + (1 << 16)], end='')\n"
        "print(); print(text)"
    )
    text = "".join(chr(33 + number % 94) for number in range(5 << 20))
    assert cell.text() == f"{text[: 1 << 20]}\n{text}\n"
    assert max(len(message.content["text"]) for message in cell.all("stream")) <= 512 * 1024


def test_lone_surrogates_become_replacement_characters(client: Client) -> None:
    cell = client.run(
        "print('before'); print('a\\ud800b'); print('after')\n"
        "display({'text/plain': '\\udcff', 'application/json': {'\\ud800': ['\\ud800']}}, raw=True)"
    )
    assert cell.text() == "before\na\ufffdb\nafter\n"
    assert cell.one("display_data").content["data"] == {
        "text/plain": "\ufffd",
        "application/json": {"\ufffd": ["\ufffd"]},
    }
    cell = client.run("raise ValueError('\\ud800')", stop_on_error=False)
    assert cell.reply.content["evalue"] == cell.one("error").content["evalue"] == "\ufffd"


def test_bytes_that_are_no_text_become_replacement_characters(client: Client) -> None:
    client.run("import os")
    assert client.run("os.write(1, b'a\\xff\\xfeb\\n');").text() == "a\ufffd\ufffdb\n"
    # A character of two bytes, written in halves.
    assert client.run("os.write(1, b'\\xc3'); os.write(1, b'\\xa9\\n');").text() == "\u00e9\n"


def test_heartbeats_come_back(client: Client) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(client.kernel.endpoint.url("hb"))
        msg_id = client.start(WAITS["busy loop"], stop_on_error=False)
        for beat in (b"ping", b"", b"x" * 1000):
            sock.send(beat)
            assert sock.poll(int(LIMIT * 1000))
            assert sock.recv() == beat
        client.interrupt()
        client.finish(msg_id)


def test_two_clients_see_all_outputs_and_their_own_replies(client: Client, host: Host) -> None:
    with connected(host.shared(), careful=client.careful) as other:
        mine, others = client.execute("print('mine')"), other.execute("print('others')")
        client.finish(mine)
        other.finish(others)
        for each in (client, other):
            for msg_id, text in ((mine, "mine"), (others, "others")):
                each.until_idle(msg_id)
                labels = labels_of(each.about(msg_id))
                assert labels == ["busy", "execute_input", f"stdout: {text}\n", "idle"]
            assert each.silent_on("shell")


def test_a_question_reaches_the_one_whose_code_asks(client: Client, host: Host) -> None:
    with connected(host.shared(), careful=client.careful) as other:
        msg_id = other.execute("print(input('?'))")
        answer_prompt(other, msg_id, "the other one")
        assert other.finish(msg_id).text() == "the other one\n"
        assert client.silent_on("stdin")


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_what_is_not_signed_with_the_key_is_ignored(client: Client, channel: str) -> None:
    sock = getattr(client.jupyter, f"{channel}_channel").socket
    forger = Session(key=b"another key", session=client.session.session)
    forger.send(sock, "execute_request", {"code": "forged = True", "silent": False})
    good = client.session.serialize(client.session.msg("kernel_info_request", {}))
    sock.send_multipart([*good[:-1], b'{"forged": true}'])
    sock.send_multipart([b"<IDS|MSG>", b"", b"{}"])
    sock.send_multipart([b"no message at all"])
    answer = client.ask("kernel_info_request", channel=channel)
    assert answer.reply.content["status"] == "ok"
    assert client.silent_on(channel)
    assert client.run("print('forged' in globals())").text() == "False\n"


@pytest.mark.parametrize("restart", [False, True])
def test_a_kernel_that_is_shut_down_runs_its_exit_functions(
    host: Host, variant: Variant, tmp_path: Path, restart: bool
) -> None:
    kernel = host.start()
    with connected(kernel, careful=not variant.lean) as client:
        client.run(
            "import atexit, pathlib, threading, time\n"
            f"folder = pathlib.Path({str(tmp_path)!r})\n"
            "atexit.register((folder / 'atexit').touch)\n"
            "atexit.register(print, 'last words')\n"
            "def finish():\n"
            "    threading.main_thread().join(); (folder / 'thread').touch()\n"
            "threading.Thread(target=finish).start()"
        )
        msg_id = client.send("shutdown_request", {"restart": restart}, channel="control")
        reply = client.receive("control")
        assert (reply.type, reply.parent_id) == ("shutdown_reply", msg_id)
        assert reply.content == {"status": "ok", "restart": restart}
        told = client.until(lambda message: message.type == "shutdown_reply")
        assert told.content == reply.content
        assert host.wait_for_end(kernel) == 0
        assert (tmp_path / "atexit").exists()


@pytest.fixture
def kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of our kernelspec, registered where only this test looks."""
    install = ["-m", "kernelagent", "kernelspec", "install", "--prefix", str(tmp_path)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    return "kernelagent-python"


@pytest.mark.parametrize("kind", [each for each in VARIANTS if not each.forked], ids=str)
def test_jupyter_starts_our_kernel_by_its_kernelspec(
    kind: Variant, kernelspec: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # What jupyter_client's blocking methods run on; nobody else closes it.
    request.addfinalizer(ensure_event_loop().close)
    manager = KernelManager(kernel_name=kernelspec, connection_file=str(tmp_path / "kernel.json"))
    assert manager.kernel_spec is not None
    assert manager.kernel_spec.resource_dir.startswith(str(tmp_path))
    env = {**os.environ, "KERNELAGENT_STOCK_KERNEL": "" if kind.lean else "1"}
    manager.start_kernel(env=env, cwd=str(tmp_path))
    client = manager.blocking_client()
    try:
        assert manager.transport == "tcp"
        client.start_channels()
        client.wait_for_ready(timeout=LIMIT)
        spoken: list[dict[str, Any]] = []
        asked: list[str] = []

        def answer(message: dict[str, Any]) -> None:
            asked.append(message["content"]["prompt"])
            client.input("typed")

        reply = client.execute_interactive(
            "import os; print(type(get_ipython().kernel).__name__, os.getcwd())\n"
            "display(1); print(input('? ')); 2",
            timeout=LIMIT,
            output_hook=spoken.append,
            stdin_hook=answer,
        )
        assert reply["content"]["status"] == "ok"
        assert asked == ["? "]
        shown = [message for message in spoken if message["msg_type"] not in ("status", "stream")]
        assert [message["msg_type"] for message in shown] == [
            *("execute_input", "display_data", "execute_result"),
        ]
        text = "".join(
            message["content"]["text"] for message in spoken if message["msg_type"] == "stream"
        )
        kernel = "LeanKernel" if kind.lean else "KernelagentKernel"
        assert text == f"{kernel} {tmp_path}\ntyped\n"
        assert client.is_alive()
        completed = client.complete("impor", reply=True, timeout=LIMIT)
        assert "import" in completed["content"]["matches"]
        msg_id = client.execute("import time; print('sleeps'); time.sleep(1000)")
        while client.get_iopub_msg(timeout=LIMIT)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=LIMIT)
        assert reply["parent_header"]["msg_id"] == msg_id
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        client.shutdown(reply=True, timeout=LIMIT)
        manager.finish_shutdown()
        assert not manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(0)
