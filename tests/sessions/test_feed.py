"""A feed: events on their way to one reader, joined, bounded, in order."""

from __future__ import annotations

import asyncio

from kernelagent.jupyter.events import (
    Begun,
    Clear,
    Display,
    Event,
    Failure,
    Output,
    Prompt,
    Text,
    Update,
)
from kernelagent.sessions.events import Feed, Skipped


def shown(text: str, display_id: str | None = None) -> Display:
    """A display of plain text."""
    output = {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
    return Display(output, display_id)


def update(display_id: str, text: str) -> Update:
    """New plain text for a display."""
    return Update(display_id, {"text/plain": text}, {})


def failure(text: str) -> Failure:
    """An error whose traceback is `text`."""
    output: Output = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": [text]}
    return Failure(output)


async def read(feed: Feed) -> list[Event | Skipped]:
    """All that a closed feed holds."""
    events = []
    while more := await feed.next():
        events += more
    return events


async def test_events_come_out_in_the_order_in_which_they_went_in() -> None:
    feed = Feed(1 << 20)
    events: list[Event] = [
        Begun(1),
        Text("stdout", "a"),
        shown("x", "id"),
        Clear(False),
        Prompt("?", False),
    ]
    for event in events:
        feed.put(event)
    assert await feed.next() == events


async def test_text_that_waits_is_joined() -> None:
    feed = Feed(1 << 20)
    for piece in ("a", "b", "c"):
        feed.put(Text("stdout", piece))
    feed.put(Text("stderr", "d"))
    feed.put(Text("stderr", "e"))
    feed.put(Text("stdout", "f"))
    assert await feed.next() == [Text("stdout", "abc"), Text("stderr", "de"), Text("stdout", "f")]


async def test_text_is_not_joined_across_other_events() -> None:
    feed = Feed(1 << 20)
    events: list[Event] = [Text("stdout", "a"), Clear(True), Text("stdout", "b")]
    for event in events:
        feed.put(event)
    assert await feed.next() == events


async def test_what_was_read_is_not_changed_by_what_comes() -> None:
    feed = Feed(1 << 20)
    piece = Text("stdout", "a")
    feed.put(piece)
    feed.put(Text("stdout", "b"))
    first = await feed.next()
    feed.put(Text("stdout", "c"))
    assert await feed.next() == [Text("stdout", "c")]
    assert (first, piece) == ([Text("stdout", "ab")], Text("stdout", "a"))


async def test_updates_of_one_display_replace_each_other() -> None:
    feed = Feed(1 << 20)
    for event in (shown("0", "a"), update("a", "1"), update("a", "2"), update("b", "3")):
        feed.put(event)
    feed.put(update("a", "4"))
    assert await feed.next() == [
        shown("0", "a"),
        update("a", "2"),
        update("b", "3"),
        update("a", "4"),
    ]


async def test_updates_without_end_never_fill_a_feed() -> None:
    feed = Feed(1000)
    for number in range(10_000):
        feed.put(update("a", f"{number:800}"))
    assert await feed.next() == [update("a", f"{9999:800}")]


async def test_what_exceeds_the_limit_is_left_out_and_told_in_its_place() -> None:
    feed = Feed(1000)
    feed.put(Text("stdout", "a" * 800))
    feed.put(Text("stdout", "b" * 500))
    feed.put(shown("c" * 490))
    feed.put(Text("stdout", "d"))
    assert await feed.next() == [
        Text("stdout", "a" * 800),
        Skipped(1000),
        Text("stdout", "d"),
    ]


async def test_a_reader_that_reads_again_has_the_whole_room_again() -> None:
    feed = Feed(1000)
    for _ in range(3):
        feed.put(Text("stdout", "a" * 900))
        feed.put(Text("stdout", "b" * 900))
        assert await feed.next() == [Text("stdout", "a" * 900), Skipped(900)]


async def test_what_waits_is_bounded_whatever_comes() -> None:
    feed = Feed(100_000)
    for number in range(50_000):
        feed.put(Text("stdout" if number % 2 else "stderr", "x"))
        feed.put(Clear(False))
        feed.put(Display({"data": {"application/json": {"rows": ["x" * 1000]}}, "metadata": {}}))
        feed.put(Prompt("x" * 1000, False))
        feed.put(failure("x" * 1000))
    events = await feed.next()
    assert len(events) < 5000


async def test_data_that_is_no_text_counts_too() -> None:
    feed = Feed(1000)
    feed.put(Update("a", {"application/json": list(range(1000))}, {}))
    (event,) = await feed.next()
    assert isinstance(event, Skipped)


async def test_questions_and_errors_reach_a_reader_that_is_behind() -> None:
    feed = Feed(1000)
    feed.put(Text("stdout", "a" * 900))
    feed.put(Text("stdout", "b" * 900))
    feed.put(Prompt("name?", False))
    feed.put(failure("x" * 5000))
    assert await feed.next() == [
        Text("stdout", "a" * 900),
        Skipped(900),
        Prompt("name?", False),
        failure("x" * 5000),
    ]


async def test_a_reader_waits_until_something_comes() -> None:
    feed = Feed(1000)
    reading = asyncio.create_task(feed.next())
    await asyncio.sleep(0)
    assert not reading.done()
    feed.put(Text("stdout", "a"))
    assert await reading == [Text("stdout", "a")]
    reading = asyncio.create_task(feed.next())
    await asyncio.sleep(0)
    assert not reading.done()
    feed.close()
    assert await reading == []


async def test_a_closed_feed_is_read_to_its_end() -> None:
    feed = Feed(1000)
    feed.put(Text("stdout", "a" * 900))
    feed.put(Text("stdout", "b" * 900))
    feed.close()
    assert await feed.next() == [Text("stdout", "a" * 900), Skipped(900)]
    assert await feed.next() == []
    assert await feed.next() == []


async def test_a_slow_reader_gets_all_text_that_has_room_in_linear_time() -> None:
    feed = Feed(1 << 30)
    # Joined piece by piece this would copy terabytes.
    for _ in range(200_000):
        feed.put(Text("stdout", "x" * 100))
    feed.close()
    (event,) = await read(feed)
    assert event == Text("stdout", "x" * 20_000_000)


async def test_an_event_is_never_read_twice_by_a_fast_reader() -> None:
    feed = Feed(1 << 20)

    async def write() -> None:
        for number in range(1000):
            feed.put(Text("stdout", f"{number}\n"))
            if number % 3 == 0:
                await asyncio.sleep(0)
        feed.close()

    writing = asyncio.create_task(write())
    events = await read(feed)
    await writing
    assert all(isinstance(event, Text) for event in events)
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert text == "".join(f"{number}\n" for number in range(1000))
