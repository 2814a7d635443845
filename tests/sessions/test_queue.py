"""What waits in a session, and ends whatever becomes of who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest

from kernelagent.errors import QueueFull, QueueTimeout, SessionClosed
from kernelagent.jupyter.events import Event, Prompt
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import Budget
from kernelagent.sessions.execution import Execution, RunRequest
from kernelagent.sessions.queue import Queue, Turn
from kernelagent.sessions.run import Run, RunLimits
from tests.execution.results import result


def execution() -> Execution:
    return Execution("s1", RunRequest("", 1, 1, 1, Budget(1, 1)))


async def test_a_turn_that_nobody_waits_for_any_more_is_passed_over() -> None:
    turn = Turn()
    turn.granted.cancel()
    await asyncio.wait_for(turn.hold(), 10)


async def test_a_turn_is_held_until_it_is_ended() -> None:
    turn = Turn()
    holding = asyncio.create_task(turn.hold())
    await turn.granted
    assert not holding.done()
    turn.end()
    turn.end()
    await holding


async def test_the_first_reason_why_a_turn_does_not_come_is_told() -> None:
    turn = Turn()
    turn.fail(SessionClosed("first"))
    turn.fail(SessionClosed("second"))
    with pytest.raises(SessionClosed, match="first"):
        await turn.granted


async def test_what_a_run_came_to_first_stays() -> None:
    ended, refused = execution(), execution()
    first = result()
    ended.finish(first)
    ended.finish(result())
    ended.fail(QueueFull("late"))
    assert ended.finished.result() is first
    refused.fail(QueueFull("no room"))
    refused.fail(QueueFull("late"))
    refused.finish(first)
    with pytest.raises(QueueFull, match="no room"):
        refused.finished.result()


async def test_a_run_that_nobody_can_wait_for_is_no_fault() -> None:
    given_up = execution()
    given_up.finished.cancel()
    await asyncio.sleep(0)
    given_up.fail(QueueFull("late"))
    assert given_up.finished.cancelled()


async def test_a_queue_is_bounded_in_order_and_closed() -> None:
    queue = Queue("s1", 2)
    first, second = execution(), Turn()
    queue.add(first)
    queue.add(second)
    with pytest.raises(QueueFull):
        queue.add(execution())
    assert queue.waiting() == [first, second]
    assert await queue.next() is first
    assert not queue.remove(first)
    queue.close()
    with pytest.raises(SessionClosed):
        queue.add(execution())
    assert queue.remove(second)
    assert len(queue) == 0


async def test_only_what_still_waits_expires() -> None:
    queue = Queue("s1", 2)
    begun, waiting = execution(), execution()
    queue.add(begun)
    queue.add(waiting)
    assert await queue.next() is begun
    queue.expire(begun, 1)
    queue.expire(waiting, 1)
    assert not begun.finished.done()
    with pytest.raises(QueueTimeout, match="within 1 s"):
        waiting.finished.result()


@dataclass
class Answers:
    """A kernel of which only the answers to its questions are of interest."""

    given: list[str] = field(default_factory=list)

    @property
    def connection(self) -> Answers:
        return self

    def answer_input(self, value: str) -> None:
        self.given.append(value)


async def test_a_question_that_nobody_can_answer_gets_an_empty_line() -> None:
    kernel, told = Answers(), list[Event]()
    run = Run(cast(Kernel, kernel), RunLimits(timeout=1, grace=1), told.append)
    run.on_stdin(Message("something_else", "1", "0", {}))
    assert kernel.given == []
    run.on_stdin(Message("input_request", "1", "0", {"prompt": "name?"}))
    assert kernel.given == [""]
    assert not run.awaits_input
    assert Prompt("name?", False) not in told
