"""From messages to outputs: what is kept, and what is told on the way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from kernelagent.jupyter.events import Clear, Display, Failure, Text, Update
from kernelagent.jupyter.outputs import Truncation
from tests.jupyter.collecting import Collected, replayed


async def test_pieces_of_one_stream_are_merged(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.print("a")
    run.print("b\n")
    run.print("wrong\n", "stderr")
    run.print("c\r\n")
    assert run.outputs == [
        {"output_type": "stream", "name": "stdout", "text": "ab\n"},
        {"output_type": "stream", "name": "stderr", "text": "wrong\n"},
        {"output_type": "stream", "name": "stdout", "text": "c\r\n"},
    ]
    assert await run.close() == Truncation(
        total_bytes=12, kept_bytes=12, stdout_bytes=6, stderr_bytes=6
    )
    assert list(tmp_path.iterdir()) == []


async def test_outputs_keep_their_order_and_shape(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.print("first\n")
    run.take(
        "display_data",
        data={"text/plain": "shown"},
        metadata={"text/plain": {"a": 1}},
        transient={},
    )
    run.take("execute_result", data={"text/plain": "42"}, metadata={}, execution_count=7)
    run.fail("ZeroDivisionError", ["one", "two"])
    assert run.outputs == [
        {"output_type": "stream", "name": "stdout", "text": "first\n"},
        {
            "output_type": "display_data",
            "data": {"text/plain": "shown"},
            "metadata": {"text/plain": {"a": 1}},
        },
        {
            "output_type": "execute_result",
            "data": {"text/plain": "42"},
            "metadata": {},
            "execution_count": 7,
        },
        {
            "output_type": "error",
            "ename": "ZeroDivisionError",
            "evalue": "wrong",
            "traceback": ["one", "two"],
        },
    ]
    assert run.collector.error == run.outputs[-1]


async def test_messages_that_show_nothing_are_ignored(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    for msg_type in ("status", "comm_open", "unheard_of"):
        run.take(msg_type, text="x", data={"text/plain": "x"})
    run.print("")
    assert (run.outputs, run.events) == ([], [])


async def test_an_update_changes_every_output_of_its_id(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.show("a", text_plain="old")
    run.show("b", text_plain="other")
    run.show("a", text_plain="old")
    run.update("a", text_plain="new")
    assert run.plain == ["new", "other", "new"]
    assert run.collector.updates == []
    facts = await run.close()
    assert facts.kept_bytes == len("text/plain") * 3 + len("new") * 2 + len("other")


async def test_updates_of_what_an_earlier_run_showed_are_kept_apart(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.update("earlier", text_plain="1")
    run.update("other", text_plain="x")
    run.update("earlier", text_plain="22")
    assert run.outputs == []
    assert [(update.display_id, update.data) for update in run.collector.updates] == [
        ("other", {"text/plain": "x"}),
        ("earlier", {"text/plain": "22"}),
    ]
    assert (await run.close()).kept_bytes == 2 * len("text/plain") + 3


async def test_the_updates_of_earlier_runs_are_bounded_too(tmp_path: Path) -> None:
    run = Collected(tmp_path, items=10)
    for number in range(50):
        run.update(str(number), text_plain="x")
    run.update("3", text_plain="y")
    assert len(run.collector.updates) == 10
    assert run.collector.updates[-1].data == {"text/plain": "y"}
    facts = await run.close()
    assert facts.truncated
    assert len(facts.files) == 40


async def test_an_update_without_an_id_is_ignored(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.take("update_display_data", data={"text/plain": "x"}, metadata={}, transient={})
    assert (run.outputs, run.collector.updates, run.events) == ([], [], [])


async def test_clear_output_withdraws_what_was_shown(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.print("before")
    run.show("a", text_plain="before")
    run.take("clear_output", wait=False)
    assert run.outputs == []
    run.update("a", text_plain="gone")
    run.print("after")
    assert run.text == "after"
    assert run.plain == []


async def test_clear_output_that_waits_takes_effect_with_the_next_output(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.print("before")
    run.take("clear_output", wait=True)
    assert run.text == "before"
    run.print("after")
    assert run.text == "after"


async def test_clear_output_that_waits_for_nothing_clears_nothing(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.show("a", text_plain="1")
    run.take("clear_output", wait=True)
    run.update("a", text_plain="2")
    assert run.plain == ["2"]


async def test_our_own_sentence_is_an_output_like_any_other(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    run.print("before")
    run.take("clear_output", wait=True)
    run.collector.add_text("stderr", "the kernel died\n")
    assert run.outputs == replayed(run.events)
    assert run.text == "the kernel died\n"


async def test_what_was_cleared_is_not_shown_any_more_to_updates(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.show("a", text_plain="first")
    run.take("clear_output", wait=False)
    run.update("a", text_plain="second")
    assert run.outputs == []
    assert [update.data for update in run.collector.updates] == [{"text/plain": "second"}]


async def test_what_was_cleared_leaves_its_room_to_what_comes(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    for number in range(20):
        run.take("clear_output", wait=bool(number % 2))
        run.print(f"{number:1000}")
    assert run.text == f"{19:1000}"
    facts = await run.close()
    assert (facts.truncated, facts.total_bytes, facts.kept_bytes) == (False, 20_000, 1000)


@pytest.mark.parametrize("wrong", [None, 5, "text", [], ["x"], {"a": "b"}, True])
async def test_content_of_any_shape_disturbs_nothing(tmp_path: Path, wrong: Any) -> None:
    run = Collected(tmp_path, size=1024, items=5)
    for _ in range(8):
        run.take("stream", name=wrong, text=wrong)
        run.take("display_data", data=wrong, metadata=wrong, transient=wrong)
        run.take("display_data", data={"image/png": wrong}, metadata=wrong, transient={})
        run.take("execute_result", data={"text/plain": wrong}, execution_count=wrong)
        run.take("update_display_data", data=wrong, transient={"display_id": wrong})
        run.take("clear_output", wait=wrong)
        run.take("error", ename=wrong, evalue=wrong, traceback=wrong)
        run.take("display_data")
        run.take("error")
    assert orjson.dumps(run.outputs)
    assert run.outputs == replayed(run.events)
    await run.close()


async def test_a_type_that_is_no_mime_type_is_left_out(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.take("display_data", data={"x" * 1_000_000: "", "text/plain": "kept"})
    assert run.outputs[0]["data"] == {"text/plain": "kept"}


async def test_events_tell_each_kept_piece_once_and_in_order(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024, items=1)
    run.print("a")
    run.print("b")
    run.show("id", text_plain="c")
    run.update("id", text_plain="d")
    run.take("clear_output", wait=True)
    run.print("x" * 2000)
    run.print("more of what is not kept")
    run.fail()
    marker = run.outputs[0]["text"][1024:]
    assert run.events == [
        Text("stdout", "a"),
        Text("stdout", "b"),
        Display({"output_type": "display_data", "data": {"text/plain": "c"}, "metadata": {}}, "id"),
        Update("id", {"text/plain": "d"}, {}),
        Clear(True),
        Text("stdout", "x" * 1024),
        Text("stdout", marker),
        Failure(run.outputs[-1]),
    ]
    await run.close()


@pytest.mark.parametrize("seed", range(60))
async def test_a_reader_of_the_events_sees_what_the_answer_shows(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - the same in every run
    size = rng.choice([1024, 5000, 1 << 20])
    run = Collected(tmp_path, size=size, items=rng.choice([2, 5, 100]))
    alphabet = "ab\n\r ä☃🎈"

    def text() -> str:
        return "".join(rng.choices(alphabet, k=rng.choice([0, 1, 10, 500])))

    def data() -> dict[str, Any]:
        mimes = rng.sample(["text/plain", "text/html", "image/png", "application/json"], k=2)
        return {mime: text() if "json" not in mime else [text()] for mime in mimes}

    def transient() -> dict[str, Any]:
        return {"display_id": rng.choice("pqr")} if rng.random() < 0.7 else {}

    for _ in range(rng.choice([10, 100])):
        match rng.choice(
            ["stream"] * 4 + ["display", "result", "update", "update", "clear", "error"]
        ):
            case "stream":
                run.print(text(), rng.choice(["stdout", "stderr"]))
            case "display":
                run.take("display_data", data=data(), metadata={}, transient=transient())
            case "result":
                run.take("execute_result", data=data(), transient=transient(), execution_count=1)
            case "update":
                run.take("update_display_data", data=data(), transient=transient())
            case "clear":
                run.take("clear_output", wait=rng.random() < 0.5)
            case "error":
                run.fail(traceback=[text(), text()])
    assert run.outputs == replayed(run.events)
    facts = await run.close()
    data_bytes = sum(len(path.read_bytes()) for path in run.spill.directory.glob("*"))
    assert data_bytes == sum(file["bytes"] for file in facts.files)
    assert facts.lost_bytes == 0
    errors = sum(output["output_type"] == "error" for output in run.outputs)
    assert facts.kept_bytes <= size + errors * 6000
