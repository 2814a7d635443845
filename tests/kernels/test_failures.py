"""A run that fails says so by one `error` output and by its reply, whatever has made it fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.kernels.sweeping import CELLS, fault_of, sweep
from tests.kernels.test_protocol import Client, Host, Variant, connected, hosting


@pytest.fixture(scope="module", params=[True, False], ids=["forked", "plain"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """An engine on lean kernels, forked and plain ones in turn."""
    workspace = tmp_path_factory.mktemp("workspace")
    with hosting(workspace, Variant(lean=True, forked=request.param)) as running:
        yield running


@pytest.fixture
def client(host: Host) -> Iterator[Client]:
    """A client of the shared kernel, which must be as it was afterwards."""
    with connected(host.shared()) as connection:
        connection.run("state = 42")
        yield connection
        cell = connection.run("print(state)")
        assert (cell.text(), cell.outputs) == ("42\n", ["stdout: 42\n"])


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


@pytest.mark.parametrize("cell", CELLS)
def test_an_interrupt_anywhere_in_a_cell_is_published_if_it_is_replied(
    client: Client, cell: str
) -> None:
    # Dense where the cell's own code ends, thin in what shows a traceback (some 100,000 lines).
    numbers = [*range(1, 30), *(int(30 * 1.6**power) for power in range(1, 16))]
    places = sweep(client, cell, numbers)
    assert len(places) > 5
    assert [place for place in places if place.fault] == []


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
