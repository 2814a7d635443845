from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import zmq
from jupyter_client.session import Session

from tests.kernels.faulty.faulty_spec import write_faulty_spec
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

PORTS = {"shell": 1, "control": 2, "stdin": 3, "iopub": 4, "hb": 5}
LIMIT = PATIENCE


class Event(NamedTuple):
    channel: str
    msg_type: str
    content: dict[str, Any]
    sent: datetime

    @property
    def label(self) -> str:
        """A status by its state, a stream by its text, else the message type."""
        return str(self.content.get("execution_state") or self.content.get("text") or self.msg_type)


class Client:
    def __init__(self, process: subprocess.Popen[bytes], ip: str) -> None:
        self.process = process
        self.session = Session(key=b"secret")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for channel in ("iopub", "shell", "control", "stdin"):
            socket = self.context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
            socket.identity = self.session.bsession
            if channel == "iopub":
                socket.subscribe(b"")
            socket.connect(f"ipc://{ip}-{PORTS[channel]}")
            self.sockets[channel] = socket

    def send(self, channel: str, msg_type: str, **content: Any) -> str:
        message = self.session.msg(msg_type, content)
        self.session.send(self.sockets[channel], message)
        return str(message["msg_id"])

    def execute(self, code: str, **options: Any) -> str:
        return self.send("shell", "execute_request", code=code, **options)

    def events(self, *, parent: str | None = None) -> Iterator[Event]:
        poller = zmq.Poller()
        for socket in self.sockets.values():
            poller.register(socket, zmq.POLLIN)
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            ready = dict(poller.poll(100))
            for channel, socket in self.sockets.items():
                if socket in ready:
                    _, message = self.session.recv(socket)
                    assert message is not None
                    if parent in (None, message["parent_header"].get("msg_id")):
                        header = message["header"]
                        yield Event(channel, header["msg_type"], message["content"], header["date"])
        raise AssertionError("the kernel fell silent")

    def cell(self, code: str, **options: Any) -> list[Event]:
        """Run code; what the kernel said until both reply and idle were there."""
        parent = self.execute(code, **options)
        seen: list[Event] = []
        for event in self.events(parent=parent):
            seen.append(event)
            if {"execute_reply", "idle"} <= {event.label for event in seen}:
                break
        # As sent: between two sockets the order of arrival is an accident.
        return sorted(seen, key=lambda event: event.sent)

    def wait_for(self, msg_type: str) -> dict[str, Any]:
        return one(self.events(), msg_type)


def one(events: Iterable[Event], msg_type: str) -> dict[str, Any]:
    return next(event.content for event in events if event.msg_type == msg_type)


@contextmanager
def faulty_kernel(**env: str) -> Iterator[Client]:
    # Not tmp_path: the path of a unix socket ends at 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="ka-"))
    spec = json.loads((write_faulty_spec(directory, env=env) / "kernel.json").read_text())
    connection_file, ip = directory / "connection.json", str(directory / "k")
    connection = {"transport": "ipc", "ip": ip, "key": "secret", "signature_scheme": "hmac-sha256"}
    ports = {f"{channel}_port": port for channel, port in PORTS.items()}
    connection_file.write_text(json.dumps({**connection, **ports}))
    argv = [part.format(connection_file=connection_file) for part in spec["argv"]]
    process = subprocess.Popen(argv, env={**os.environ, **spec["env"]}, stderr=subprocess.PIPE)
    client = Client(process, ip)
    try:
        yield client
    finally:
        process.kill()
        process.communicate()
        client.context.destroy(linger=0)
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Client]:
    with faulty_kernel() as client:
        assert client.wait_for("iopub_welcome") == {"subscription": ""}
        yield client


def test_kernel_info_names_the_protocol(kernel: Client) -> None:
    kernel.send("shell", "kernel_info_request")

    assert kernel.wait_for("kernel_info_reply")["protocol_version"] == "5.4"


def test_without_welcome_it_speaks_the_protocol_before() -> None:
    with faulty_kernel(FAULT_NO_WELCOME="1") as client:
        client.send("shell", "kernel_info_request")

        assert client.wait_for("kernel_info_reply")["protocol_version"] == "5.3"


def test_lines_run_in_order(kernel: Client) -> None:
    seen = kernel.cell("print hello world\nresult 42")

    assert [event.label for event in seen] == [
        "busy",
        "execute_input",
        "hello world\n",
        "execute_result",
        "execute_reply",
        "idle",
    ]
    assert one(seen, "execute_result")["data"] == {"text/plain": "42"}


def test_only_stored_cells_are_counted(kernel: Client) -> None:
    def count(**options: bool) -> int:
        return int(one(kernel.cell("", **options), "execute_reply")["execution_count"])

    before = count()
    assert count(store_history=False) == before
    assert count(silent=True) == before
    assert count() == before + 1


def test_error_ends_the_cell(kernel: Client) -> None:
    seen = kernel.cell("error ValueError no such thing\nprint never")

    error = one(seen, "error")
    assert (error["ename"], error["evalue"]) == ("ValueError", "no such thing")
    assert one(seen, "execute_reply")["status"] == "error"
    assert "never\n" not in [event.label for event in seen]


@pytest.mark.parametrize(
    ("code", "tail"),
    [
        ("reply_first", ["execute_reply", "after the reply\n", "idle"]),
        ("idle_first", ["idle", "execute_reply"]),
    ],
)
def test_reply_and_idle_come_in_the_order_asked_for(
    kernel: Client, code: str, tail: list[str]
) -> None:
    assert [event.label for event in kernel.cell(code)][2:] == tail


def test_late_output_belongs_to_the_cell_that_has_ended(kernel: Client) -> None:
    parent = kernel.execute("late too late")
    kernel.execute("sleep 0.1")

    seen = []
    for event in kernel.events(parent=parent):
        if event.channel == "iopub":
            seen.append(event.label)
        if event.msg_type == "stream":
            break
    assert seen == ["busy", "execute_input", "idle", "too late\n"]


def test_prompt_is_answered_on_stdin(kernel: Client) -> None:
    parent = kernel.execute("input name?", allow_stdin=True)

    for channel, msg_type, content, _ in kernel.events(parent=parent):
        if msg_type == "input_request":
            assert (channel, content["prompt"]) == ("stdin", "name?")
            kernel.send("stdin", "input_reply", value="Ada")
        if msg_type == "stream":
            assert content["text"] == "Ada\n"
            break


@pytest.mark.parametrize("mode", ["signal", "message"])
def test_sleep_is_interrupted(kernel: Client, mode: str) -> None:
    parent = kernel.execute("sleep 60")

    for _, msg_type, content, _ in kernel.events(parent=parent):
        if msg_type == "execute_input" and mode == "signal":
            kernel.process.send_signal(signal.SIGINT)
        elif msg_type == "execute_input":
            kernel.send("control", "interrupt_request")
        if msg_type == "error":
            assert content["ename"] == "KeyboardInterrupt"
            break


def test_exit_lets_earlier_output_through() -> None:
    with faulty_kernel() as client:
        client.wait_for("iopub_welcome")
        client.execute("print last words\nexit 3")

        assert client.wait_for("stream")["text"] == "last words\n"
        assert client.process.wait(LIMIT) == 3


@pytest.mark.parametrize(("fault", "code"), [("die_at_start", 7), ("die_after_bind", 8)])
def test_fault_at_start_ends_the_process(fault: str, code: int) -> None:
    with faulty_kernel(FAULT=fault) as client:
        assert client.process.wait(LIMIT) == code
