"""An interrupt loses nothing: no answer, no state, no output, whenever and how often it comes.

`make prove interrupts` has the long form of these.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from kernelagent_python.lean.interrupts import Interrupts
from tests.kernels.python.interrupting import (
    FAILING,
    SHORT,
    Moments,
    interrupt_short,
    interrupt_waiting,
)
from tests.kernels.python.protocol import LIMIT, WAITS, Client
from tests.kernels.python.sweeping import CELLS, fault_of, sweep


@pytest.fixture(scope="module")
def preload() -> tuple[str, ...] | None:
    """As it is used."""
    return None


@pytest.fixture
def client(lean_client: Client) -> Client:
    """The client of these tests."""
    return lean_client


@pytest.mark.parametrize("code", [*SHORT, *FAILING])
def test_an_interrupt_near_the_end_of_a_cell_loses_nothing(client: Client, code: str) -> None:
    moments = Moments(random.Random(8))  # noqa: S311 - moments, not secrets
    met: set[bool] = set()
    deadline = time.monotonic() + LIMIT
    rounds = 0
    # Until some were over, and others were not.
    while rounds < 10 or len(met) < 2:
        ended = interrupt_short(client, code, moments, times=1 + rounds % 3)
        assert ended.faults == []
        met.add(ended.met)
        rounds += 1
        client.iopub.clear()
        assert time.monotonic() < deadline


@pytest.mark.parametrize("wait", WAITS)
def test_a_second_interrupt_loses_nothing(client: Client, wait: str) -> None:
    chance = random.Random(8)  # noqa: S311 - moments, not secrets
    for _ in range(2):
        assert interrupt_waiting(client, wait, chance, times=2).faults == []


def test_an_interrupt_that_hits_a_callback_before_the_code_stops_the_code(client: Client) -> None:
    client.run(
        "import os, signal\nran = []\n"
        "def interrupt():\n"
        "    events.unregister('pre_execute', interrupt)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    ran.append('callback')\n"
        "events = get_ipython().events\n"
        "events.register('pre_execute', interrupt)"
    )
    cell = client.run("ran.append('code')", stop_on_error=False)
    assert cell.reply.content["ename"] == "KeyboardInterrupt"
    assert cell.one("error").content["ename"] == "KeyboardInterrupt"
    assert client.run("print(ran)").text() == "['callback']\n"


def test_an_interrupt_tears_no_output(client: Client) -> None:
    chance = random.Random(8)  # noqa: S311 - moments, not secrets
    for _ in range(10):
        ended = interrupt_waiting(client, "printing", chance)
        assert ended.faults == []
        assert ended.cell.one("error").content["ename"] == "KeyboardInterrupt"
        client.iopub.clear()


def test_an_interrupt_that_hits_a_callback_behind_the_code_ends_the_run(client: Client) -> None:
    client.run(
        "import os, signal\ncalled = []\n"
        "def interrupt():\n"
        "    events.unregister('post_execute', interrupt)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    called.append('first')\n"
        "def second():\n"
        "    events.unregister('post_execute', second)\n"
        "    called.append('second')\n"
        "events = get_ipython().events"
    )
    for code, ename in (("pass", "KeyboardInterrupt"), ("1 / 0", "ZeroDivisionError")):
        cell = client.run(
            "called.clear()\nfor callback in (interrupt, second):\n"
            f"    events.register('post_execute', callback)\n{code}",
            stop_on_error=False,
        )
        assert fault_of(cell) == ""
        assert cell.reply.content["ename"] == ename
        assert client.run("print(called)").text() == "['second']\n"


# The instruction that jumps back in a loop can belong to no line, and IPython cannot show that:
# there is such a loop where it compiles the next statement of a cell.
@pytest.mark.parametrize("number", range(1, 25, 6))
def test_an_interrupt_at_an_instruction_of_no_line_is_published(
    client: Client, number: int
) -> None:
    (place,) = sweep(client, "a system call", [number], "lineless")
    assert (place.status, place.fault) == ("error", "")


@pytest.mark.parametrize("cell", CELLS)
def test_an_interrupt_anywhere_in_a_cell_is_published_if_it_is_replied(
    client: Client, cell: str
) -> None:
    # Dense where the cell's own code ends, thin in what shows a traceback (some 100,000 lines).
    numbers = [*range(1, 12, 3), *(int(30 * 3**power) for power in range(8))]
    places = list(sweep(client, cell, numbers))
    assert len(places) > 3
    assert [place for place in places if place.fault] == []


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """The handler of this process's SIGINT, in a cell."""
    before = signal.getsignal(signal.SIGINT)
    handler = Interrupts()
    handler.expect()
    handler.enter()
    yield handler
    signal.signal(signal.SIGINT, before)


def sigint() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_put_off_to_the_end_of_a_send(interrupts: Interrupts) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        with interrupts.deferred():
            sigint()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_an_interrupt_that_comes_before_the_code_begins_is_kept(interrupts: Interrupts) -> None:
    interrupts.expect()
    sigint()
    with pytest.raises(KeyboardInterrupt):
        interrupts.enter()


def test_an_interrupt_behind_the_code_is_ignored(interrupts: Interrupts) -> None:
    interrupts.leave()
    sigint()
    with interrupts.deferred():
        sigint()
    interrupts.expect()
    interrupts.enter()


def ending(cell: Coroutine[Any, Any, object]) -> str:
    """What ends a coroutine, whatever becomes of its tasks."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(cell, LIMIT))
    except BaseException as error:
        return type(error).__name__
    finally:
        loop.close()
    return "nothing"


async def waiting(interrupts: Interrupts, meanwhile: Callable[[], object]) -> None:
    """A cell that awaits something, while the loop calls `meanwhile`."""
    loop = asyncio.get_running_loop()
    loop.call_soon(meanwhile)
    task = loop.create_task(asyncio.sleep(LIMIT))
    with interrupts.cancelling(task, loop):
        await task


def test_an_interrupt_cancels_a_cell_that_waits(interrupts: Interrupts) -> None:
    assert ending(waiting(interrupts, sigint)) == "CancelledError"


def test_an_interrupt_in_a_send_of_somebody_else_cancels_the_cell(interrupts: Interrupts) -> None:
    def send() -> None:
        with interrupts.deferred():
            sigint()

    assert ending(waiting(interrupts, send)) == "CancelledError"


def test_an_interrupt_is_not_raised_in_the_code_of_asyncio(
    interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_soon = asyncio.BaseEventLoop.call_soon

    def interrupted(loop: asyncio.BaseEventLoop, *args: Any, **options: Any) -> Any:
        # Called to have the task go on, when its code has been left already.
        monkeypatch.undo()
        sigint()
        return call_soon(loop, *args, **options)

    async def code() -> None:
        monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon", interrupted)
        await asyncio.sleep(0)
        await asyncio.sleep(LIMIT)

    async def cell() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(code())
        with interrupts.cancelling(task, loop):
            await task

    assert ending(cell()) == "CancelledError"
