"""A run with several callers: who gets what, when it is abandoned, how it ends with its owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from kernelagent.errors import QueueFull, ServiceClosing
from kernelagent.execution.flight import Flights

Disconnected = Callable[[], Awaitable[None]]


class Work:
    """A run that ends when it is told to, or is abandoned."""

    def __init__(self) -> None:
        self.begun = 0
        self.abandoned = 0
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self, abandoned: Disconnected) -> str | None:
        self.begun += 1
        leaving = asyncio.ensure_future(abandoned())
        either: list[asyncio.Future[Any]] = [self.result, leaving]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self.result.done():
                return self.result.result()
            self.abandoned += 1
            return None
        finally:
            leaving.cancel()


async def never() -> None:
    await asyncio.Event().wait()


async def at_once() -> None:
    pass


async def steps() -> None:
    """Let everything go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_callers_get_the_same_result() -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    flight = flights.start("key", work)
    callers = [asyncio.create_task(flight.join(never)) for _ in range(3)]
    await steps()
    assert flights.find("key") is flight
    assert flights.find("other") is None
    work.result.set_result("done")

    assert await asyncio.gather(*callers) == ["done"] * 3
    assert work.begun == 1
    await steps()
    assert flights.find("key") is None
    assert len(flights) == 0


async def test_all_callers_get_the_error() -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    flight = flights.start("key", work)
    callers = [asyncio.create_task(flight.join(never)) for _ in range(3)]
    await steps()
    work.result.set_exception(QueueFull("full"))

    for caller in callers:
        with pytest.raises(QueueFull):
            await caller


async def test_it_is_abandoned_when_the_last_caller_leaves_and_can_be_joined_no_more() -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    flight = flights.start("key", work)
    gone = [asyncio.Event(), asyncio.Event()]

    async def leaves(number: int) -> None:
        await gone[number].wait()

    callers = [asyncio.create_task(flight.join(partial(leaves, n))) for n in range(2)]
    await steps()
    gone[0].set()
    await steps()
    assert (await callers[0], work.abandoned) == (None, 0)
    assert flights.find("key") is flight
    gone[1].set()
    await steps()
    assert (await callers[1], work.abandoned) == (None, 1)
    assert flights.find("key") is None

    again = Work()
    other = flights.start("key", again)
    assert flights.find("key") is other
    again.result.set_result("again")
    assert await other.join(never) == "again"


async def test_an_abandoned_run_is_not_joined_while_it_is_being_stopped() -> None:
    flights: Flights[str | None] = Flights()
    stopped = asyncio.Event()

    async def slow(abandoned: Disconnected) -> None:
        await abandoned()
        await stopped.wait()

    first = flights.start("key", slow)
    assert await first.join(at_once) is None
    assert not first.task.done()
    assert flights.find("key") is None

    work = Work()
    second = flights.start("key", work)
    stopped.set()
    await steps()
    # The end of the first does not make the second one unknown.
    assert first.task.done()
    assert flights.find("key") is second
    work.result.set_result("done")
    assert await second.join(never) == "done"


async def test_a_cancelled_caller_counts_as_one_that_left() -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    caller = asyncio.create_task(flights.start("key", work).join(never))
    await steps()
    caller.cancel()
    await steps()

    assert work.abandoned == 1


async def test_it_goes_on_if_one_caller_wants_it_to() -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    flight = flights.start("key", work)
    held = asyncio.create_task(flight.join(at_once, hold=True))
    other = asyncio.create_task(flight.join(at_once))
    await steps()

    assert [await held, await other, work.abandoned] == [None, None, 0]
    work.result.set_result("done")
    assert await flight.join(never) == "done"


async def test_an_ended_run_has_its_result_for_whoever_joins_it_late() -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    flight = flights.start("key", work)
    work.result.set_result("done")
    await steps()

    assert await flight.join(at_once) == "done"
    assert not flight.abandoned.is_set()


@pytest.mark.parametrize("has_caller", [True, False])
async def test_a_fault_is_told_once(caplog: pytest.LogCaptureFixture, has_caller: bool) -> None:
    flights: Flights[str | None] = Flights()
    work = Work()
    flight = flights.start("key", work)
    caller = asyncio.create_task(flight.join(never if has_caller else at_once, hold=True))
    await steps()
    with caplog.at_level(logging.ERROR):
        work.result.set_exception(RuntimeError("broken"))
        await steps()

    # Whoever waits answers with it, and the answering logs it.
    assert len(caplog.records) == (0 if has_caller else 1)
    if has_caller:
        with pytest.raises(RuntimeError):
            await caller
    else:
        assert await caller is None


async def test_closing_ends_every_run_and_tells_its_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernelagent.execution.flight._CLOSE_GRACE", 0.05)
    flights: Flights[str | None] = Flights()
    work, quick = Work(), Work()
    caller = asyncio.create_task(flights.start("key", work).join(never))
    other = asyncio.create_task(flights.start("quick", quick).join(never))
    asyncio.get_running_loop().call_later(0.01, quick.result.set_result, "in time")

    await flights.close()

    assert await other == "in time"
    with pytest.raises(ServiceClosing):
        await caller
    await steps()
    assert len(flights) == 0
    with pytest.raises(ServiceClosing):
        flights.start("key", work)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "flight"] == []
