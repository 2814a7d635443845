"""A run that fails says so by one `error` output and by its reply, whatever has made it fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.kernels.python.protocol import Client, Variant, connected, hosting
from tests.kernels.python.sweeping import fault_of


@pytest.fixture(scope="module")
def preload() -> tuple[str, ...] | None:
    """As it is used."""
    return None


@pytest.fixture
def client(lean_client: Client) -> Client:
    """The client of these tests."""
    return lean_client


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a kernel of stock classes."""
    workspace = tmp_path_factory.mktemp("stock")
    with (
        hosting(workspace, Variant(lean=False, forked=False)) as running,
        connected(running.start(), careful=True) as connection,
    ):
        yield connection


# IPython publishes an error for none of these, but for the first three.
FAILURES = {
    "an error": ("1 / 0", "ZeroDivisionError", "division by zero"),
    "a syntax error": ("x ==== 2", "SyntaxError", "invalid syntax"),
    "an exit": ("raise SystemExit(3)", "SystemExit", "3"),
    "an unknown magic": ("%nosuch", "UsageError", "Line magic function `%nosuch` not found."),
    "a group": ("raise ExceptionGroup('both', [ValueError(1)])", "ExceptionGroup", "both"),
    "a debugger that is left": ("import bdb; raise bdb.BdbQuit('left')", "BdbQuit", "left"),
    "a traceback of its own that fails": (
        "class Own(Exception):\n"
        "    def _render_traceback_(self): raise ValueError('no')\n"
        "raise Own('mine')",
        "Own",
        "mine",
    ),
    "a handler of its own": (
        "class Handled(Exception): pass\n"
        "get_ipython().set_custom_exc((Handled,), lambda *a, **k: None)\n"
        "raise Handled('quietly')",
        "Handled",
        "quietly",
    ),
    "an await": (
        "import asyncio\nawait asyncio.sleep(0)\nraise ExceptionGroup('both', [OSError()])",
        "ExceptionGroup",
        "both",
    ),
    "a value that cannot be shown": (
        "class Bad:\n    def __repr__(self): raise LookupError('bad')\nBad()",
        "LookupError",
        "bad",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_is_published_once(client: Client, failure: str) -> None:
    code, ename, evalue = FAILURES[failure]
    cell = client.run(code, stop_on_error=False)
    assert cell.reply.content["status"] == "error"
    for told in (cell.reply.content, cell.one("error").content):
        assert told["ename"] == ename
        assert evalue in told["evalue"]
        assert any(ename in line for line in told["traceback"])


@pytest.mark.parametrize("failure", ["an error", "a group", "a debugger that is left"])
def test_a_traceback_that_was_shown_before_is_not_that_of_the_failure(
    client: Client, failure: str
) -> None:
    code, ename, _ = FAILURES[failure]
    shown = "try: {}['other']\nexcept KeyError: get_ipython().showtraceback()\n"
    cell = client.run(shown + code, stop_on_error=False)
    assert cell.reply.content["ename"] == ename
    assert [error.content["ename"] for error in cell.all("error")] == ["KeyError", ename]


@pytest.mark.parametrize("failure", ["an error", "a group", "a debugger that is left", "an await"])
def test_a_stock_kernel_publishes_each_failure_once(stock: Client, failure: str) -> None:
    code, ename, evalue = FAILURES[failure]
    stock.run("1 / 0", stop_on_error=False)
    cell = stock.run(code, stop_on_error=False)
    assert fault_of(cell) == ""
    assert (cell.reply.content["ename"], evalue in cell.reply.content["evalue"]) == (ename, True)


def test_only_what_waited_behind_a_failure_is_aborted(client: Client) -> None:
    for _ in range(100):
        failed = client.finish(client.execute("1 / 0"))
        assert failed.reply.content["status"] == "error"
        # Sent by somebody who has seen the reply.
        assert client.run("1").reply.content["status"] == "ok"


def test_a_traceback_that_cannot_be_formatted_is_shown_plainly(client: Client) -> None:
    client.run(
        "import IPython.core.ultratb as ultratb\n"
        "formatted = ultratb.FormattedTB.format_exception_as_a_whole\n"
        "def fail(*args, **options): raise IndexError('cannot format')\n"
        "ultratb.FormattedTB.format_exception_as_a_whole = fail"
    )
    try:
        cell = client.run("def broken():\n    return {}['key']\nbroken()", stop_on_error=False)
    finally:
        client.run("ultratb.FormattedTB.format_exception_as_a_whole = formatted")
    error = cell.one("error").content
    assert (error["ename"], error["evalue"]) == ("KeyError", "'key'")
    assert error == {key: cell.reply.content[key] for key in error}
    text = "".join(error["traceback"])
    assert "in broken" in text
    assert "KeyError: 'key'" in text
    assert cell.outputs == ["error"]


def test_an_exception_whose_text_does_not_end_can_be_interrupted(client: Client) -> None:
    msg_id = client.start(
        "class Endless(Exception):\n"
        "    def __str__(self):\n"
        "        print('ready', flush=True)\n"
        "        while True: pass\n"
        "raise Endless",
        stop_on_error=False,
    )
    # Its text is asked for more than once.
    deadline = time.monotonic() + 60
    while client.silent_on("shell", 0.2):
        client.kernel.provisioner.signal(signal.SIGINT)
        assert time.monotonic() < deadline
    assert fault_of(client.finish(msg_id)) == ""


@pytest.mark.parametrize("failure", ["own traceback", "text"])
def test_a_second_interrupt_in_user_code_that_shows_an_error_ends_it(
    client: Client, failure: str
) -> None:
    name = "_render_traceback_" if failure == "own traceback" else "__str__"
    msg_id = client.execute(
        "import os, signal, time\n"
        "class Slow(Exception):\n"
        f"    def {name}(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(1000)\n"
        "raise Slow",
        stop_on_error=False,
    )
    cell = client.finish(msg_id)
    assert fault_of(cell) == ""
    assert cell.reply.content["ename"] == "Slow"


@pytest.mark.parametrize("stream", ["None", "object()"])
def test_a_run_is_replied_to_whatever_has_become_of_stdout(client: Client, stream: str) -> None:
    cell = client.run(f"import sys; kept, sys.stdout = sys.stdout, {stream}")
    assert cell.reply.content["status"] == "ok"
    failed = client.run("1 / 0", stop_on_error=False)
    assert fault_of(failed) == ""
    assert client.run("sys.stdout = kept").reply.content["status"] == "ok"
