"""What is known of a request by its Idempotency-Key, how long, and within which bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kernelagent.errors import IdempotencyConflict, InvalidRequest, QueueFull
from kernelagent.execution.repeats import RECORD_OVERHEAD, Repeats
from kernelagent.settings import Settings

OWNER = ("user", "/execute")
LIMIT = 10 * RECORD_OVERHEAD


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """Asks for runs by key, and counts those that are run."""

    def __init__(self, repeats: Repeats) -> None:
        self.repeats = repeats
        self.runs = 0

    async def __call__(
        self,
        key: str,
        body: bytes = b"{}",
        *,
        result: bytes | Exception | None = b"answer",
        owner: tuple[str, str] = OWNER,
    ) -> tuple[bytes | None, bool]:
        async def work(abandoned: Callable[[], Awaitable[None]]) -> bytes | None:
            self.runs += 1
            await asyncio.sleep(0)
            if isinstance(result, Exception):
                raise result
            return result

        return await self.repeats.answer(key, owner, body, work, never, hold=True)

    async def conflict(self, key: str, body: bytes = b"{}") -> str:
        with pytest.raises(IdempotencyConflict) as caught:
            await self(key, body)
        return caught.value.message


async def never() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(settings: Settings, clock: Clock) -> Runner:
    changed = settings.model_copy(update={"idempotency_bytes": LIMIT})
    return Runner(Repeats(changed, most_records=50, clock=clock))


async def test_a_repeat_gets_the_same_bytes_until_they_expire(run: Runner, clock: Clock) -> None:
    assert await run("k") == (b"answer", False)
    clock.now += 599.9
    assert await run("k", result=b"other") == (b"answer", True)
    clock.now += 0.2
    assert await run("k", result=b"other") == (b"other", False)
    assert run.runs == 2


async def test_keys_belong_to_a_subject_and_a_path(run: Runner) -> None:
    owners = [("user", "/execute"), ("user", "/execute/rich"), ("us", "er/execute"), ("", "")]
    for owner in owners:
        assert await run("k", owner=owner, body=repr(owner).encode()) == (b"answer", False)
    for owner in owners:
        assert await run("k", owner=owner, body=repr(owner).encode()) == (b"answer", True)


async def test_equal_requests_at_once_are_run_once(run: Runner) -> None:
    found = await asyncio.gather(*(run("k") for _ in range(5)))
    assert sorted(found) == [(b"answer", False)] + [(b"answer", True)] * 4
    assert run.runs == 1


async def test_another_body_is_a_conflict_while_it_runs_and_afterwards(run: Runner) -> None:
    first = asyncio.create_task(run("k"))
    await asyncio.sleep(0)
    assert "another request" in await run.conflict("k", b"{ }")
    await first
    assert "another request" in await run.conflict("k", b"{ }")
    assert await run("k") == (b"answer", True)
    assert run.runs == 1


async def test_what_was_not_run_is_tried_anew(run: Runner) -> None:
    for _ in range(2):
        with pytest.raises(QueueFull):
            await run("k", result=QueueFull("full"))
    # Nor does it hold the key for its body.
    assert await run("k", b"{ }") == (b"answer", False)
    assert len(run.repeats) == 1


async def test_what_failed_inside_the_service_may_have_run_and_is_not_run_again(
    run: Runner,
) -> None:
    with pytest.raises(RuntimeError):
        await run("k", result=RuntimeError("broken"))
    assert "failed inside the service" in await run.conflict("k")
    assert run.runs == 1


async def test_what_was_stopped_is_not_run_again(run: Runner) -> None:
    assert await run("k", result=None) == (None, False)
    assert "callers had left" in await run.conflict("k")
    assert run.runs == 1


async def test_what_is_being_stopped_is_neither_joined_nor_run_again(run: Runner) -> None:
    stopped = asyncio.Event()

    async def slow(abandoned: Callable[[], Awaitable[None]]) -> bytes | None:
        await abandoned()
        await stopped.wait()
        return None

    async def at_once() -> None:
        pass

    left = await run.repeats.answer("k", OWNER, b"{}", slow, at_once, hold=False)
    assert left == (None, False)
    assert "being stopped" in await run.conflict("k")
    assert "another request" in await run.conflict("k", b"{ }")
    stopped.set()
    await asyncio.sleep(0.01)
    assert "callers had left" in await run.conflict("k")
    assert run.runs == 0


async def test_an_answer_that_is_too_large_is_gone_and_not_made_again(
    run: Runner, clock: Clock
) -> None:
    await run("small")
    assert await run("k", result=b"x" * LIMIT) == (b"x" * LIMIT, False)

    assert "not kept any more" in await run.conflict("k")
    assert await run("small") == (b"answer", True)
    clock.now += 601
    assert await run("k") == (b"answer", False)


async def test_the_oldest_answers_go_first_and_are_not_made_again(run: Runner) -> None:
    for number in range(20):
        await run(str(number), result=b"x" * RECORD_OVERHEAD)
        assert run.repeats.bytes <= LIMIT

    for number in range(15):
        assert "not kept any more" in await run.conflict(str(number))
    for number in range(15, 20):
        assert await run(str(number)) == (b"x" * RECORD_OVERHEAD, True)
    assert run.runs == 20


async def test_records_are_bounded_too(run: Runner) -> None:
    for number in range(200):
        await run(str(number))

    assert len(run.repeats) == 50
    assert await run("149") == (b"answer", False)


async def test_everything_ends_with_its_life(run: Runner, clock: Clock) -> None:
    for number in range(30):
        await run(str(number))
    clock.now += 601
    await run("last")

    assert len(run.repeats) == 1
    assert run.repeats.bytes == RECORD_OVERHEAD + len(b"answer")


async def test_without_memory_for_answers_nothing_is_run_twice(settings: Settings) -> None:
    run = Runner(Repeats(settings.model_copy(update={"idempotency_bytes": 0})))
    assert await run("k") == (b"answer", False)
    assert "not kept any more" in await run.conflict("k")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ä", "\x7f", "a\nb"])
async def test_a_key_is_printable_ascii(run: Runner, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await run(key)
    assert run.runs == 0


@pytest.mark.parametrize("key", ["x", "x" * 255, "a b~!", '"quoted"'])
async def test_good_keys(run: Runner, key: str) -> None:
    assert await run(key) == (b"answer", False)


async def test_a_large_body_is_compared_whole(run: Runner) -> None:
    body = b"x" * 10_000_000
    await run("k", body)
    assert await run("k", body) == (b"answer", True)
    await run.conflict("k", body[:-1] + b"y")


async def test_closing_ends_what_runs(settings: Settings, monkeypatch: Any) -> None:
    monkeypatch.setattr("kernelagent.execution.flight._CLOSE_GRACE", 0.01)
    repeats = Repeats(settings)

    async def work(abandoned: Callable[[], Awaitable[None]]) -> bytes | None:
        await never()
        return None

    async with repeats:
        caller = asyncio.create_task(repeats.answer("k", OWNER, b"{}", work, never, hold=True))
        await asyncio.sleep(0.01)

    results = await asyncio.gather(caller, return_exceptions=True)
    assert [type(item).__name__ for item in results] == ["ServiceClosing"]
