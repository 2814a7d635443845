"""What the lean kernel promises beyond the protocol: few threads, a true sleep, and streams that
neither tear nor lose lines."""

from __future__ import annotations

import importlib.metadata
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelagent_python import app
from kernelagent_python.lean import support
from kernelagent_python.lean.interrupts import Interrupts
from kernelagent_python.lean.publisher import Publisher
from kernelagent_python.lean.streams import LeanStream
from tests.kernels.python.protocol import LIMIT, Client, Host, Variant, connected, hosting


@pytest.fixture
def client(lean_host: Host) -> Iterator[Client]:
    """A client of a kernel that nobody else uses."""
    with connected(lean_host.start()) as connection:
        yield connection
        assert connection.run("pass").reply.content["status"] == "ok"


def tasks_of(pid: int) -> list[Path]:
    return sorted(Path(f"/proc/{pid}/task").iterdir())


def test_a_lean_kernel_has_four_threads(client: Client) -> None:
    client.run("print(1); display(2); 3")
    names = [(task / "comm").read_text().strip() for task in tasks_of(client.pid)]
    assert len(names) == 4
    assert sorted(name for name in names if name.startswith("ZMQ")) == [
        *("ZMQbg/IO/0", "ZMQbg/Reaper"),
    ]
    code = "import threading; print(*(thread.name for thread in threading.enumerate()))"
    assert client.run(code).text() == "MainThread Control\n"


def switches(pid: int) -> dict[str, int]:
    """How often each thread of a process went to sleep by itself."""
    counts = {}
    for task in tasks_of(pid):
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                counts[task.name] = int(line.split()[1])
    return counts


def test_an_idle_lean_kernel_sleeps(client: Client) -> None:
    client.run("print(1, end=''); display(2); 3")
    settled = switches(client.pid)
    deadline = time.monotonic() + LIMIT
    while True:
        # Longer than output is held back.
        time.sleep(0.1)
        before, settled = settled, switches(client.pid)
        if before == settled:
            break
        assert time.monotonic() < deadline, "the kernel does not settle"
    time.sleep(0.5)
    after = switches(client.pid)
    assert after.keys() == settled.keys()
    assert sum(after.values()) - sum(settled.values()) <= 1


@pytest.mark.parametrize("flush", [False, True])
def test_a_flood_of_lines_arrives_whole(client: Client, flush: bool) -> None:
    cell = client.run(f"for number in range(10_000): print(number, flush={flush})")
    assert cell.text() == "".join(f"{number}\n" for number in range(10_000))
    if not flush:
        # Few: they are sent together.
        assert len(cell.all("stream")) < 500


def test_outputs_of_all_kinds_keep_their_order_in_a_flood(client: Client) -> None:
    cell = client.run(
        "import sys\n"
        "for number in range(300):\n"
        "    print(number); print(number, file=sys.stderr); display(number)"
    )
    expected = [(f"stdout: {n}\n", f"stderr: {n}\n", "display_data") for n in range(300)]
    assert cell.outputs == [label for labels in expected for label in labels]


THREADS = """
import sys, threading
def work(name, kinds):
    for number in range(2000):
        for kind in kinds:
            kind(f"{name} {number}\\n")
threads = [threading.Thread(target=work, args=[name, KINDS]) for name in "ab"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_that_print_neither_tear_nor_lose_lines(client: Client) -> None:
    cell = client.run(THREADS.replace("KINDS", "[sys.stdout.write]"))
    lines = cell.text().splitlines()
    assert len(lines) == 4000
    for name in "ab":
        of_thread = [line for line in lines if line.startswith(name)]
        assert of_thread == [f"{name} {number}" for number in range(2000)]


def test_threads_that_print_display_and_write_past_python_lose_nothing(client: Client) -> None:
    client.run("import os\ndef show(text): display({'text/plain': text}, raw=True)")
    kinds = "[sys.stdout.write, sys.stderr.write, show, lambda text: os.write(1, text.encode())]"
    cell = client.run(THREADS.replace("KINDS", kinds).replace("2000", "300"))
    shown = [message.content["data"]["text/plain"] for message in cell.all("display_data")]
    errors = cell.text("stderr").splitlines(keepends=True)
    for name in "ab":
        expected = [f"{name} {number}\n" for number in range(300)]
        assert [text for text in shown if text.startswith(name)] == expected
        assert [line for line in errors if line.startswith(name)] == expected
    lines = cell.text().splitlines()
    assert sorted(lines) == sorted(2 * [f"{name} {n}" for name in "ab" for n in range(300)])


def test_a_finaliser_can_print_while_something_is_sent(client: Client) -> None:
    cell = client.run(
        "import gc, sys\n"
        "class Loud:\n"
        "    def __init__(self, number): self.number, self.me = number, self\n"
        "    def __del__(self):\n"
        "        sys.stdout.write(f'gone {self.number}\\n'); sys.stdout.flush()\n"
        "        display({'text/plain': str(self.number)}, raw=True)\n"
        "thresholds = gc.get_threshold()\n"
        "gc.set_threshold(5)\n"
        "for number in range(500):\n"
        "    Loud(number); sys.stdout.write(f'made {number}\\n')\n"
        "gc.set_threshold(*thresholds)\n"
        "x = gc.collect()"
    )
    lines = cell.text().splitlines()
    assert [line for line in lines if line.startswith("made")] == [f"made {n}" for n in range(500)]
    assert sorted(line for line in lines if line.startswith("gone")) == sorted(
        f"gone {n}" for n in range(500)
    )
    assert len(cell.all("display_data")) == 500


def test_a_forked_child_that_runs_on_does_not_answer_for_its_parent(client: Client) -> None:
    cell = client.run(
        "import os\nchild = os.fork()\nprint('parent' if child else 'child', end=' ')\n"
        "if child: os.waitpid(child, 0)"
    )
    assert cell.reply.content["status"] == "ok"
    assert sorted(cell.text().split()) == ["child", "parent"]
    client.ask("kernel_info_request")
    assert client.silent_on("shell")
    assert client.about(cell.reply.parent_id) == cell.messages


def test_a_process_can_be_forked_while_threads_print(client: Client) -> None:
    cell = client.run(
        "import os, sys, threading\n"
        "stop = threading.Event()\n"
        "def chatter():\n"
        "    while not stop.is_set(): sys.stderr.write('chatter\\n')\n"
        "threads = [threading.Thread(target=chatter) for _ in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "for number in range(30):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        print(number); display(number); os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "stop.set()\n"
        "for thread in threads: thread.join()"
    )
    assert cell.text().split() == [str(number) for number in range(30)]
    shown = [message.content["data"]["text/plain"] for message in cell.all("display_data")]
    assert shown == [str(number) for number in range(30)]


def test_a_forked_child_displays_something_large(client: Client) -> None:
    for _ in range(3):
        cell = client.run(
            "import os\nchild = os.fork()\n"
            "if not child:\n"
            "    display({'text/plain': 'x' * (8 << 20)}, raw=True); os._exit(0)\n"
            "os.waitpid(child, 0);"
        )
        assert cell.one("display_data").content["data"]["text/plain"] == "x" * (8 << 20)


class SlowPublisher(Publisher):
    """Publishes nothing, and that slowly."""

    def __init__(self) -> None:
        super().__init__(None, Interrupts())
        self.texts: list[str] = []
        self.sending, self.go = threading.Event(), threading.Event()

    def add(self, msg: list[Any]) -> None:
        self.sending.set()
        assert self.go.wait(LIMIT)
        self.texts += msg

    def flush(self) -> None:
        pass


class PlainSession:
    """Makes messages that are their text."""

    def msg(self, _: str, content: dict[str, Any], **_options: Any) -> str:
        return str(content["text"])

    def send(self, socket: Any, message: str, **_options: Any) -> None:
        socket.send_multipart([message])


def test_who_finds_nothing_to_flush_knows_that_it_was_sent() -> None:
    publisher = SlowPublisher()
    stream = LeanStream(PlainSession(), publisher, "stdout", 1)
    stream._attached = stream._timed = True
    stream.write("half a line")
    other = threading.Thread(target=stream.flush)
    other.start()
    assert publisher.sending.wait(LIMIT)
    # Held up for the other thread: the text is on its way, not sent.
    threading.Timer(0.01, publisher.go.set).start()
    stream.flush()
    assert publisher.texts == ["half a line"]
    other.join()


VERSIONS = {"ipykernel": "7.4.2", "ipython": "9.18.1"}


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What seems to be installed."""
    installed = dict(VERSIONS)
    monkeypatch.setattr(importlib.metadata, "version", installed.__getitem__)
    return installed


@pytest.mark.parametrize("version", ["7.4.0", "7.4.9", "7.4.0rc1"])
def test_tested_versions_are_supported(versions: dict[str, str], version: str) -> None:
    versions["ipykernel"] = version
    assert support.unsupported() is None


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("ipykernel", "6.31.0"),
        ("ipykernel", "7.3.9"),
        ("ipykernel", "7.5.0a1"),
        ("ipykernel", "8.0"),
        ("ipython", "8.37.0"),
        ("ipython", "10.0.0"),
    ],
)
def test_untested_versions_are_named(versions: dict[str, str], package: str, version: str) -> None:
    versions[package] = version
    assert f"{package} {version} is not in the tested range" in (support.unsupported() or "")


def test_other_systems_are_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "darwin" in (support.unsupported() or "")


def test_an_untested_version_runs_on_stock_classes(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []
    monkeypatch.setattr(app, "prepare_lean", lambda _: pytest.fail("the lean kernel starts"))
    monkeypatch.setattr(app, "launch_stock", lambda *given: launched.append(given))
    versions["ipykernel"] = "7.5.0"
    app.launch(["-f", "file"])
    assert launched == [(["-f", "file"], {})]


@pytest.mark.parametrize("forked", [True, False])
def test_a_process_with_an_untested_version_is_a_stock_kernel(
    forked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "metadata.version = lambda name: '9.9' if name == 'ipykernel' else version(name)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    variant = Variant(lean=True, forked=forked)
    with (
        hosting(tmp_path / "workspace", variant, kernel_env=("PYTHONPATH",), preload=()) as host,
        connected(host.start(), careful=True) as client,
    ):
        kernel = client.run("print(type(get_ipython().kernel).__name__)").text()
    assert kernel == "KernelagentKernel\n"
