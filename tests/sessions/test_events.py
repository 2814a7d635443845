"""Those who follow a run."""

from __future__ import annotations

from kernelagent.jupyter.events import Begun, Clear, Event, Text
from kernelagent.jupyter.outputs import Budget
from kernelagent.sessions.events import Events, Feed, Skipped
from tests.engines import EngineFactory, submit


def test_everyone_who_follows_gets_every_event_in_order() -> None:
    events, one, other = Events(), list[Event](), list[Event]()
    events.put(Text("stdout", "before"))
    events.follow(one.append)
    events.put(Text("stdout", "a"))
    events.follow(other.append)
    events.put(Text("stdout", "b"))
    events.leave(one.append)
    events.put(Text("stdout", "c"))
    assert one == [Text("stdout", "a"), Text("stdout", "b")]
    assert other == [Text("stdout", "b"), Text("stdout", "c")]


def test_a_follower_that_leaves_while_it_is_told_takes_nothing_from_others() -> None:
    events, told = Events(), list[Event]()

    def once(_: Event) -> None:
        events.leave(once)

    events.follow(once)
    events.follow(told.append)
    events.put(Clear(False))
    events.put(Clear(True))
    assert told == [Clear(False), Clear(True)]


async def test_a_run_is_followed_by_two_feeds_and_a_log(faulty_engine: EngineFactory) -> None:
    """The feeds get what the answer keeps, the log all of it, and all of them an end."""
    session = (await faulty_engine()).session("default")
    execution = submit(session, "print " + "x" * 1000, budget=Budget(100, 10))
    feeds = [Feed(1 << 20), Feed(1 << 20)]
    for feed in feeds:
        execution.follow(feed)
    log: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Text):
            log.append(event.text)

    execution.uncut.follow(note)
    result = await execution.finished
    assert "".join(log) == "x" * 1000 + "\n"
    texts = []
    for feed in feeds:
        seen: list[Event | Skipped] = []
        while events := await feed.next():
            seen += events
        assert isinstance(seen[0], Begun)
        texts.append("".join(event.text for event in seen if isinstance(event, Text)))
    assert texts[0] == texts[1] == result.outputs[0]["text"]
    assert texts[0].startswith("x" * 100 + "\n[kernelagent: stdout exceeds")


async def test_who_comes_when_a_run_is_over_learns_that_it_is(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine()).session("default")
    execution = submit(session, "print x")
    await execution.finished
    feed = Feed(1 << 20)
    execution.follow(feed)
    assert await feed.next() == []
