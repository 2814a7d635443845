"""From events to messages: their shapes, their sizes, and that nothing is lost between them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from kernelagent.errors import QueueFull
from kernelagent.execution.messages import MessageMaker
from kernelagent.execution.models import ExecuteRequest
from kernelagent.execution.service import Submission
from kernelagent.execution.streams import leave
from kernelagent.jupyter.events import (
    Begun,
    Clear,
    Display,
    Event,
    Failure,
    MimeBundle,
    Output,
    Prompt,
    Text,
    Update,
)
from kernelagent.jupyter.outputs import Budget
from kernelagent.sessions.events import Feed, Skipped
from kernelagent.sessions.execution import Execution, RunRequest
from kernelagent.sessions.session import Session
from kernelagent.web.streaming import Message, complete, dump, refusal
from tests.execution.results import display, result, value

# Published clients lose text beyond 64 KiB and end a stream at 1 MiB.
LONGEST_TEXT = 64 * 1024
LONGEST = 1024 * 1024


async def messages_of(event: Event | Skipped, *, rich: bool = True) -> list[Message]:
    """The messages of one event, which are valid on the wire, without their timestamps."""
    request = RunRequest("code", 1, 1, 1, Budget(1, 1), cwd=Path("/"))
    maker = MessageMaker(Execution("s1", request), rich=rich)
    made = list(maker.messages(event))
    for message in made:
        assert json.loads(dump(message)) == message
        assert message.pop("timestamp").endswith("Z")
        message.pop("execution_id", None)
    return made


def whole(messages: list[Message]) -> dict[str, Any]:
    """The data of each MIME type, put together from its parts."""
    data: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for message in messages:
        mime = message["mime"]
        if "part" not in message:
            data[mime] = message["data"]
            continue
        texts[mime] = texts.get(mime, "") + message["data"]
        if message["part"] == message["parts"]:
            text = texts[mime]
            data[mime] = json.loads(text) if message["encoding"] == "json" else text
    return data


async def test_the_beginning_of_a_run_is_told() -> None:
    assert await messages_of(Begun(3)) == [
        {"type": "started", "session_id": "s1", "execution_count": 3}
    ]


@pytest.mark.parametrize(("name", "kind"), [("stdout", "stdout"), ("stderr", "stderr")])
async def test_text_is_a_message_of_its_stream(name: str, kind: str) -> None:
    assert await messages_of(Text(name, "ä\n")) == [{"type": kind, "data": "ä\n"}]


@pytest.mark.parametrize("text", ["x", "ä", "\n", "\x1b", "🎈", 'a"\\'])
async def test_long_text_comes_in_lines_that_every_client_can_read(text: str) -> None:
    everything = text * (300_000 // len(text))
    messages = await messages_of(Text("stdout", everything))
    assert "".join(message["data"] for message in messages) == everything
    assert max(len(dump(message)) for message in messages) < LONGEST_TEXT
    assert len(messages) < 300_000 * 12 / 16_000


async def test_no_text_is_no_message() -> None:
    assert await messages_of(Text("stdout", "")) == []


async def test_a_display_is_one_message_for_each_type_the_best_first() -> None:
    data = {"text/plain": "<Figure size 1x1>", "image/png": "aGk="}
    head = {"type": "rich", "output": 1, "metadata": {"source": "matplotlib"}}
    assert await messages_of(Display(display(data))) == [
        {**head, "mime": "image/png", "primary": True, "data": "aGk="},
        {**head, "mime": "text/plain", "primary": False, "data": "<Figure size 1x1>"},
    ]


async def test_a_value_has_its_count_and_a_display_its_id() -> None:
    (message,) = await messages_of(Display(value({"text/plain": "1"}, count=4)))
    assert message["execution_count"] == 4
    (message,) = await messages_of(Display(display({"text/plain": "1"}), "id"))
    assert message["display_id"] == "id"
    assert "execution_count" not in message


async def test_displays_are_numbered() -> None:
    maker = MessageMaker(Execution("s1", RunRequest("", 1, 1, 1, Budget(1, 1))), rich=True)
    event = Display(display({"text/plain": "x"}))
    assert [next(maker.messages(event))["output"] for _ in range(3)] == [1, 2, 3]


async def test_a_display_without_data_is_no_message() -> None:
    assert await messages_of(Display(display({}))) == []


@pytest.mark.parametrize(
    "bundle",
    [
        {"image/png": "A" * 3_000_000},
        {"text/html": "<b>ä☃🎈</b>\n" * 200_000},
        {"application/json": {"rows": [["ä", 1.5, None]] * 100_000}},
        {"text/plain": "x" * 600_000, "application/json": list(range(300_000))},
    ],
    ids=["base64", "html", "json", "several"],
)
async def test_large_data_comes_in_parts_that_make_the_whole(bundle: MimeBundle) -> None:
    messages = await messages_of(Display(display(bundle)))
    assert whole(messages) == bundle
    assert max(len(dump(message)) for message in messages) < LONGEST
    for mime in bundle:
        parts = [message for message in messages if message["mime"] == mime]
        assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
        assert {part["parts"] for part in parts} == {len(parts)}


async def test_an_update_names_its_display() -> None:
    (message,) = await messages_of(Update("id", {"text/plain": "new"}, {}))
    assert (message["type"], message["display_id"]) == ("update_display", "id")
    assert message["data"] == "new"


@pytest.mark.parametrize("wait", [True, False])
async def test_clear_output_is_told(wait: bool) -> None:
    assert await messages_of(Clear(wait)) == [{"type": "clear_output", "wait": wait}]


async def test_a_stream_of_text_shows_no_pictures() -> None:
    shown: list[Event | Skipped] = [
        Display(display({"image/png": "aGk="})),
        Update("id", {"image/png": "aGk="}, {}),
        Clear(False),
    ]
    for event in shown:
        assert await messages_of(event, rich=False) == []


async def test_a_failure_is_text_and_a_message_of_its_own() -> None:
    output: Output = {
        "output_type": "error",
        "ename": "KeyError",
        "evalue": "'x'",
        "traceback": ["\x1b[31mline one\x1b[0m", "line two"],
    }
    assert await messages_of(Failure(output), rich=False) == [
        {"type": "stderr", "data": "line one\nline two\n"},
        {
            "type": "error",
            "error": "KeyError: 'x'",
            "message": "KeyError: 'x'",
            "code": "EXECUTION_ERROR",
            "ename": "KeyError",
            "evalue": "'x'",
            "traceback": ["\x1b[31mline one\x1b[0m", "line two"],
        },
    ]


async def test_a_failure_without_bounds_fits_into_messages() -> None:
    output: Output = {
        "output_type": "error",
        "ename": "N" * 1000,
        "evalue": "🎈" * 250_000,
        "traceback": ["🎈" * 250_000],
    }
    messages = await messages_of(Failure(output))
    assert max(len(dump(message)) for message in messages) < LONGEST
    text = "".join(message["data"] for message in messages if message["type"] == "stderr")
    assert text == "🎈" * 250_000 + "\n"


async def test_a_prompt_is_a_question_to_the_client() -> None:
    assert await messages_of(Prompt("name? ", True)) == [
        {"type": "input_request", "prompt": "name? ", "password": True}
    ]
    (message,) = await messages_of(Prompt("x" * 10_000_000, False))
    assert len(dump(message)) < LONGEST_TEXT


async def test_what_was_left_out_is_told() -> None:
    (message,) = await messages_of(Skipped(5000))
    assert (message["type"], message["bytes"]) == ("skipped", 5000)


async def test_the_result_of_a_rich_stream_repeats_only_short_text() -> None:
    request = RunRequest("", 1, 1, 1, Budget(1, 1))
    maker = MessageMaker(Execution("s1", request), rich=True)
    run = result(display({"image/png": "aGk="}), value({"text/plain": "42"}))
    message = maker.result(run)
    assert (message["type"], message["outcome"], message["result"]) == ("result", "ok", "42")
    assert "png" not in message
    assert "result" not in maker.result(result(value({"text/plain": "🎈" * 40_000})))


async def test_the_result_of_a_stream_of_text_has_the_last_picture_if_it_is_small() -> None:
    request = RunRequest("", 1, 1, 1, Budget(1, 1))
    maker = MessageMaker(Execution("s1", request), rich=False)
    assert maker.result(result(display({"image/png": "aGk="})))["png"] == "aGk="
    large = maker.result(result(display({"image/png": "A" * 2_000_000})))
    assert "png" not in large
    assert large["outcome"] == "ok"


async def test_a_refusal_says_why_nothing_ran() -> None:
    message = refusal(QueueFull("too many", details={"limit": 3}))
    assert message.pop("timestamp")
    assert message == {
        "type": "error",
        "error": "too many",
        "message": "too many",
        "code": "QUEUE_FULL",
        "details": {"limit": 3},
    }


@pytest.mark.parametrize("success", [True, False])
def test_the_last_message_says_whether_it_worked(success: bool) -> None:
    message = complete(success)
    assert (message["type"], message["success"]) == ("complete", success)


def test_a_message_is_one_line_for_every_client() -> None:
    line = dump({"data": "a\nb\r\u2028\u2029\x85\x0b\x0cä🎈"})
    assert line.isascii()
    assert line.splitlines() == [line]


async def test_an_execution_that_nobody_awaits_disturbs_nobody() -> None:
    execution = Execution("s1", RunRequest("", 1, 1, 1, Budget(1, 1)))
    execution.fail(QueueFull("x"))
    del execution
    await asyncio.sleep(0)


async def test_a_run_that_goes_on_without_its_reader_keeps_nothing_for_it() -> None:
    execution = Execution("s1", RunRequest("", 1, 1, 1, Budget(1, 1)))
    feed = Feed(1 << 20)
    execution.follow(feed)
    submission = Submission(cast(Session, None), execution, feed)
    await leave(submission, ExecuteRequest(code="1", on_disconnect="continue"))
    execution.events.put(Text("stdout", "x" * 1000))
    execution.finish(result())
    assert await feed.next() == []
