"""Standard streams of the kernel: prompt, whole lines together, messages of bounded size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ipykernel.iostream import IOPubThread

from kernelagent_python import streams
from kernelagent_python.streams import PromptOutStream

PACKAGE = Path(streams.__file__).parent.parent


class RecordingSession:
    """Stands for Jupyter's session; remembers what would be sent."""

    pid = 0

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.parents: list[str] = []

    def msg(self, _: str, content: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
        return {"content": content, "parent": parent}

    def send(self, _: object, message: dict[str, Any], ident: bytes) -> None:
        assert ident == b"stream.stdout"
        self.texts.append(message["content"]["text"])
        self.parents.append(message["parent"].get("msg_id", ""))


class SendingThread(IOPubThread):  # type: ignore[misc,unused-ignore] # untyped base
    """Stands for the thread that sends: does at once what is asked, and keeps what is put off."""

    def __init__(self) -> None:
        self.io_loop = self
        self.thread = None
        self.put_off: list[Callable[[], None]] = []

    def schedule(self, function: Callable[[], None]) -> None:
        function()

    def call_later(self, _: float, function: Callable[[], None]) -> None:
        self.put_off.append(function)


class Stream:
    """A stream, what it has sent, and a clock that stands still."""

    def __init__(self) -> None:
        session = RecordingSession()
        self.thread = SendingThread()
        self.out = PromptOutStream(session, self.thread, "stdout", watchfd=False)
        self.sent = session.texts
        self.parents = session.parents
        self.now = 1000.0

    def print(self, *values: object, end: str = "\n") -> None:
        print(*values, end=end, file=self.out)

    def begin_cell(self, msg_id: str) -> None:
        self.out.set_parent({"header": {"msg_id": msg_id}})

    def wait(self) -> None:
        """Let the time pass after which everything is sent."""
        self.now += 1
        for function in self.thread.put_off:
            function()
        self.thread.put_off.clear()


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_the_first_line_is_sent_before_print_returns(stream: Stream) -> None:
    stream.print("hello")
    assert stream.sent == ["hello\n"]


def test_one_print_is_one_message(stream: Stream) -> None:
    stream.print("a", 1, "b", end="!\n")
    assert stream.sent == ["a 1 b!\n"]


def test_lines_that_follow_closely_are_gathered(stream: Stream) -> None:
    for number in range(10):
        stream.print(number)
    assert stream.sent == ["0\n"]
    stream.wait()
    assert stream.sent == ["0\n", "".join(f"{number}\n" for number in range(1, 10))]


def test_a_line_after_a_pause_is_sent_at_once(stream: Stream) -> None:
    stream.print("first")
    stream.print("second")
    stream.now += 1
    stream.print("third")
    assert stream.sent == ["first\n", "second\nthird\n"]


def test_half_a_line_waits_for_its_end(stream: Stream) -> None:
    stream.print("half", end="")
    assert stream.sent == []
    stream.print(" and half")
    assert stream.sent == ["half and half\n"]


def test_half_a_line_is_sent_when_nothing_follows(stream: Stream) -> None:
    stream.print("half", end="")
    stream.wait()
    assert stream.sent == ["half"]


def test_the_first_line_of_the_next_cell_is_sent_at_once(stream: Stream) -> None:
    stream.begin_cell("one")
    stream.print("a")
    stream.begin_cell("two")
    stream.print("b")
    assert stream.sent == ["a\n", "b\n"]
    assert stream.parents == ["one", "two"]


def test_what_waits_belongs_to_the_cell_that_printed_it(stream: Stream) -> None:
    stream.begin_cell("one")
    stream.print("a")
    stream.print("b")
    stream.begin_cell("two")
    stream.print("c")
    assert stream.sent == ["a\n", "b\n", "c\n"]
    assert stream.parents == ["one", "one", "two"]


def test_much_text_is_sent_without_waiting_for_a_pause(stream: Stream) -> None:
    stream.print("first")
    for _ in range(300):
        stream.print("x" * 1023)
    assert len(stream.sent) == 2
    assert len(stream.sent[1]) >= 256 * 1024


@pytest.mark.parametrize("piece", [10, 1000, 100_000, 2_000_000])
def test_messages_are_bounded_and_nothing_is_lost(stream: Stream, piece: int) -> None:
    text = "".join(chr(0x4E00 + number % 5000) for number in range(piece))
    count = 2_000_000 // piece or 1
    for _ in range(count):
        stream.out.write(text)
    stream.out.flush()
    assert max(map(len, stream.sent)) <= 512 * 1024
    assert "".join(stream.sent) == text * count


def test_writing_tells_how_much_was_written(stream: Stream) -> None:
    assert stream.out.write("abc") == 3
    assert stream.out.write("x" * 1_000_000) == 1_000_000


def test_only_text_can_be_written(stream: Stream) -> None:
    with pytest.raises(TypeError):
        stream.out.write(b"bytes")  # type: ignore[arg-type]
    stream.out.flush()
    assert stream.sent == []


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("os._exit(3)", 3),
        ("os.abort()", -6),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(0, signal.SIGTERM)", -15),
        ("os.kill(os.getpid(), 0); os._exit(4)", 4),
    ],
)
def test_a_kernel_that_ends_itself_sends_what_it_has_first(ending: str, status: int) -> None:
    process = run_script(f"flush_before_exit()\n{ending}")
    assert process.returncode == status
    assert json.loads(process.stdout) == ["flushed"]


def test_a_child_of_a_kernel_sends_nothing_when_it_ends() -> None:
    process = run_script(
        "flush_before_exit()\n"
        "if os.fork() == 0:\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "assert sys.stdout.flushed == []\n"
        "os._exit(5)\n"
    )
    assert process.returncode == 5
    assert json.loads(process.stdout) == ["flushed"]


def test_a_fork_that_is_a_kernel_of_its_own_sends_what_it_has_once() -> None:
    process = run_script(
        "flush_before_exit()\n"
        "if os.fork() == 0:\n"
        "    flush_before_exit()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "os._exit.__wrapped__(0)\n"
    )
    assert process.returncode == 0
    # By the child, which did not wrap what was wrapped: the parent got past it in one step.
    assert json.loads(process.stdout) == ["flushed"]


def test_a_broken_stream_does_not_keep_a_kernel_alive() -> None:
    process = run_script("flush_before_exit()\nsys.stdout = None\nos._exit(3)")
    assert process.returncode == 3


def run_script(code: str) -> subprocess.CompletedProcess[bytes]:
    """The end of a process whose stdout tells on flush that it was flushed."""
    prelude = (
        "import json, os, signal, sys\n"
        "from kernelagent_python.streams import flush_before_exit\n"
        "class Recorder:\n"
        "    flushed = []\n"
        "    def flush(self):\n"
        "        self.flushed.append('flushed')\n"
        "        os.write(1, json.dumps(self.flushed).encode())\n"
        "    def write(self, text): pass\n"
        "sys.stdout = Recorder()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        timeout=60,
        check=False,
    )
