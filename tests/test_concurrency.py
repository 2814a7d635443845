"""Tasks that are waited for together, and loops in the background."""

from __future__ import annotations

import asyncio

import pytest

from kernelagent import concurrency
from kernelagent.concurrency import Loop, ends_first, race
from tests.waiting import until


class Endless:
    """What never ends by itself, and whether it has ended."""

    def __init__(self) -> None:
        self.begun = self.ended = False

    async def __call__(self) -> None:
        self.begun = True
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


async def never() -> None:
    await asyncio.Event().wait()


async def at_once() -> None:
    pass


async def failing() -> None:
    raise ValueError("no")


async def test_work_that_ends_first_is_told_and_not_cancelled() -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    assert not await ends_first(ended, at_once)
    assert not ended.cancelled()
    ended.set_result(1)
    assert await ends_first(ended, failing)
    later = asyncio.ensure_future(asyncio.sleep(0, 2))
    assert await ends_first(later, never)


async def test_what_goes_wrong_with_the_connection_is_raised() -> None:
    work: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with pytest.raises(ValueError, match="no"):
        await ends_first(work, failing)


async def test_the_wait_for_a_caller_has_ended_when_the_work_has() -> None:
    endless = Endless()
    assert await ends_first(asyncio.ensure_future(until(lambda: endless.begun)), endless)
    assert endless.ended


async def test_a_wait_for_a_caller_that_is_cancelled_leaves_the_work_alone() -> None:
    work: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    endless = Endless()
    waiting = asyncio.create_task(ends_first(work, endless))
    await until(lambda: endless.begun)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert endless.ended
    assert not work.done()


async def test_the_first_to_end_cancels_the_rest() -> None:
    endless = Endless()
    one, other = await race(endless(), at_once())
    assert (one.cancelled(), other.cancelled(), endless.ended) == (True, False, True)


async def test_an_error_of_any_is_raised_when_all_have_ended() -> None:
    endless = Endless()
    with pytest.raises(ValueError, match="no"):
        await race(endless(), failing())
    assert endless.ended


async def test_a_race_that_is_cancelled_leaves_nothing() -> None:
    one, other = Endless(), Endless()
    racing = asyncio.create_task(race(one(), other()))
    await until(lambda: one.begun and other.begun)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert one.ended
    assert other.ended


async def test_a_loop_goes_on_after_a_round_that_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(concurrency, "_FAULT_PAUSE", 0)
    rounds = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) == 2:
            raise ValueError("the second one")

    loop = Loop("sweeping", work)
    loop.open()
    await until(lambda: len(rounds) > 3)
    await loop.close()
    done = len(rounds)
    assert "sweeping: a round failed" in caplog.text
    assert "the second one" in caplog.text
    await asyncio.sleep(0)
    assert len(rounds) == done


async def test_a_loop_is_closed_in_the_middle_of_a_round_and_twice() -> None:
    endless = Endless()
    loop = Loop("waiting", endless)
    await loop.close()
    loop.open()
    await until(lambda: endless.begun)
    await loop.close()
    assert endless.ended
    await loop.close()
