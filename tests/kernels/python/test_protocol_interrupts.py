"""Interrupts of every kind of Python kernel."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from tests.kernels.python.protocol import INTERRUPTED, READY, WAITS, Client, Variant, blocking_until


@pytest.mark.parametrize("wait", WAITS)
def test_sigint_interrupts(client: Client, variant: Variant, wait: str) -> None:
    if wait in ("printing", "displaying") and not variant.lean:
        pytest.skip("a stock kernel does not stand an interrupt while it sends")
    msg_id = client.start(WAITS[wait], stop_on_error=False)
    client.interrupt_wait()
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
    client.interrupt_wait()
    client.finish(msg_id)


def waiting(seconds: str = "1000") -> str:
    """Code that prints `ready` while it awaits."""
    return f"asyncio.get_running_loop().call_soon(print, 'ready')\nawait asyncio.sleep({seconds})\n"


def test_awaiting_is_interrupted(client: Client, variant: Variant) -> None:
    msg_id = client.start(f"import asyncio\n{waiting()}", stop_on_error=False)
    client.interrupt_wait()
    if not variant.lean:
        # ipykernel issue 881: the handler does not wake the loop, any message does.
        client.send("kernel_info_request")
    cell = client.finish(msg_id)
    assert cell.reply.content["ename"] == cell.one("error").content["ename"] == "CancelledError"


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
    client.interrupt_wait()
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
    client.interrupt_wait()
    client.until_printed("survived", msg_id)
    client.interrupt_wait()
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
    client.interrupt_wait()
    if variant.lean:
        client.until_printed("again", msg_id)
        client.interrupt_wait()
    else:
        client.send("kernel_info_request")
    cell = client.finish(msg_id)
    assert "survived" in cell.text()
    assert cell.reply.content["ename"] == (
        "CancelledError" if variant.lean else "ZeroDivisionError"
    )


def test_an_interrupt_between_cells_is_ignored(client: Client) -> None:
    for _ in range(20):
        client.interrupt_wait()
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
    client.interrupt_wait()
    assert client.finish(msg_id).text() == "ready\nhandled\n"
    msg_id = client.start(WAITS["sleep"], stop_on_error=False)
    client.interrupt_wait()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    assert client.run("caught").one("execute_result").content["data"]["text/plain"] == "[1]"


def test_an_interrupt_ends_what_is_queued_behind_it(client: Client) -> None:
    msg_id = client.start(WAITS["sleep"])
    queued = client.execute("1")
    client.ask("kernel_info_request", channel="control")
    client.interrupt_wait()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    assert client.finish(queued).reply.content["status"] == "aborted"
