"""From messages to outputs: what is kept, what goes to files, and what is told on the way."""

from __future__ import annotations

import base64
import copy
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import (
    Budget,
    Clear,
    Display,
    Event,
    Failure,
    Output,
    OutputCollector,
    Text,
    Truncation,
    Update,
)
from kernelagent.jupyter.spill import Spill

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Collected:
    """A collector on a spill in `workspace`, with the events that it told."""

    def __init__(
        self, workspace: Path, *, size: int = 1 << 20, items: int = 100, spill: int = 1 << 30
    ) -> None:
        self.events: list[Event] = []
        self.spill = Spill(workspace, "exec_1", spill)
        # A reader may see an event long after it was told: nothing may change it meanwhile.
        self._told: list[tuple[Event, Event]] = []
        self.collector = OutputCollector(Budget(size, items), self.spill, self._emit)

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._told.append((event, copy.deepcopy(event)))

    def take(self, msg_type: str, **content: Any) -> None:
        self.collector.take(Message(msg_type, "id", "parent", content))

    def print(self, text: str, name: str = "stdout") -> None:
        self.take("stream", name=name, text=text)

    def show(self, display_id: str | None = None, **data: Any) -> None:
        transient = {"display_id": display_id} if display_id else {}
        bundle = {mime.replace("_", "/"): value for mime, value in data.items()}
        self.take("display_data", data=bundle, metadata={}, transient=transient)

    def update(self, display_id: str, **data: Any) -> None:
        bundle = {mime.replace("_", "/"): value for mime, value in data.items()}
        transient = {"display_id": display_id}
        self.take("update_display_data", data=bundle, metadata={}, transient=transient)

    def fail(self, ename: str = "ValueError", traceback: list[str] | None = None) -> None:
        self.take("error", ename=ename, evalue="wrong", traceback=traceback or [])

    @property
    def outputs(self) -> list[Output]:
        return self.collector.outputs

    @property
    def text(self) -> str:
        return "".join(output.get("text", "") for output in self.outputs)

    @property
    def plain(self) -> list[str]:
        """The text/plain of everything shown."""
        return [output["data"]["text/plain"] for output in self.outputs if "data" in output]

    async def close(self) -> Truncation:
        """What was cut, once all files are written."""
        await self.spill.close()
        for event, as_told in self._told:
            assert event == as_told
        return self.collector.truncation


def replayed(events: list[Event]) -> list[Output]:
    """What a reader shows who follows `events` in the simplest way."""
    shown: list[tuple[Output, str | None]] = []
    pending = False
    for event in events:
        if isinstance(event, Text | Display | Failure) and pending:
            shown, pending = [], False
        match event:
            case Text(name, text):
                if shown and shown[-1][0].get("name") == name:
                    shown[-1][0]["text"] += text
                else:
                    shown.append(({"output_type": "stream", "name": name, "text": text}, None))
            case Display(output, display_id):
                shown.append((dict(output), display_id))
            case Failure(output):
                shown.append((output, None))
            case Update(display_id, data, metadata):
                for output, shown_as in shown:
                    if shown_as == display_id:
                        output |= {"data": data, "metadata": metadata}
            case Clear(wait):
                pending = wait
                shown = shown if wait else []
    return [output for output, _ in shown]


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
    for msg_type in ("status", "execute_input", "comm_open", "unheard_of"):
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


async def test_what_was_cleared_leaves_its_room_to_what_comes(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    for number in range(20):
        run.take("clear_output", wait=bool(number % 2))
        run.print(f"{number:1000}")
    assert run.text == f"{19:1000}"
    facts = await run.close()
    assert (facts.truncated, facts.total_bytes, facts.kept_bytes) == (False, 20_000, 1000)


async def test_text_beyond_the_budget_continues_in_a_file(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1001)
    # Three bytes each: the budget ends within one.
    everything = "".join(chr(0x4E00 + number) for number in range(1000))
    for start in range(0, 1000, 7):
        run.print(everything[start : start + 7])
    facts = await run.close()
    head, marker, _ = run.text.partition("\n[kernelagent: stdout exceeds the output budget;")
    file = tmp_path / ".kernelagent" / "outputs" / "exec_1" / "stdout.txt"
    assert marker
    assert f"the rest is in {file}]" in run.text
    assert len(head.encode()) == 999
    assert head + file.read_text("utf-8") == everything
    assert facts == Truncation(
        truncated=True,
        total_bytes=3000,
        kept_bytes=999,
        stdout_bytes=3000,
        files=[{"path": str(file), "bytes": 2001}],
    )


async def test_each_stream_has_a_file_of_its_own(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    for number in range(1000):
        run.print(f"out {number}\n")
        run.print(f"err {number}\n", "stderr")
    facts = await run.close()
    assert {Path(file["path"]).name for file in facts.files} == {"stdout.txt", "stderr.txt"}
    for name, word in (("stdout", "out"), ("stderr", "err")):
        shown = "".join(output["text"] for output in run.outputs if output["name"] == name)
        head, _, _ = shown.partition("\n[kernelagent: ")
        rest = (run.spill.directory / f"{name}.txt").read_text()
        assert head + rest == "".join(f"{word} {number}\n" for number in range(1000))
    assert facts.kept_bytes + sum(file["bytes"] for file in facts.files) == facts.total_bytes


async def test_the_name_of_a_stream_names_no_other_file(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    run = Collected(workspace, size=1024)
    for name in ("../../../../planted", "/tmp/planted", "a\0b", 7, None, ["x"]):
        run.take("stream", name=name, text="x" * 1000)
    facts = await run.close()
    assert {output["name"] for output in run.outputs} == {"stdout"}
    assert [file["path"] for file in facts.files] == [str(run.spill.directory / "stdout.txt")]
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]


async def test_displays_beyond_their_number_go_to_files(tmp_path: Path) -> None:
    run = Collected(tmp_path, items=3)
    for number in range(8):
        run.show(text_plain=f"shown {number}")
    facts = await run.close()
    assert run.plain == ["shown 0", "shown 1", "shown 2"]
    assert f"more than 3 displays; the rest is in {run.spill.directory}" in run.text
    assert run.text.count("kernelagent") == 2, "one marker, with the folder's name"
    assert (facts.displays, facts.kept_displays, facts.truncated) == (8, 3, True)
    assert [Path(file["path"]).read_text() for file in facts.files] == [
        f"shown {number}" for number in range(3, 8)
    ]


async def test_displays_by_the_thousand_leave_a_bounded_number_of_files(tmp_path: Path) -> None:
    run = Collected(tmp_path, items=1)
    for number in range(3001):
        run.show(text_plain=str(number))
    facts = await run.close()
    assert len(facts.files) == len(list(run.spill.directory.iterdir())) == 1000
    assert facts.lost_bytes == sum(len(str(number)) for number in range(1001, 3001))


async def test_a_picture_beyond_the_budget_is_a_file_that_the_answer_names(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=64)
    run.take(
        "display_data",
        data={"image/png": base64.encodebytes(PNG).decode(), "text/plain": "<Figure>" * 20},
        metadata={"image/png": {"width": 1}},
        transient={},
    )
    facts = await run.close()
    (output,) = run.outputs
    spilled = output["metadata"]["kernelagent"]["spilled"]
    assert [file["mime"] for file in spilled] == ["image/png", "text/plain"]
    picture = Path(spilled[0]["path"])
    assert (picture.suffix, picture.read_bytes()) == (".png", PNG)
    assert spilled[0]["bytes"] == len(PNG)
    assert str(picture) in output["data"]["text/plain"]
    assert list(output["data"]) == ["text/plain"]
    assert (facts.kept_bytes, facts.lost_bytes, facts.truncated) == (0, 0, True)
    assert [file["path"] for file in facts.files] == [file["path"] for file in spilled]


@pytest.mark.parametrize("data", ["no base64 ä", "abc", "", {"not": "text"}])
async def test_a_picture_that_is_none_is_kept_as_it_came(tmp_path: Path, data: object) -> None:
    run = Collected(tmp_path, size=10)
    run.show(image_png=data, text_plain="x" * 100)
    (output,) = run.outputs
    await run.close()
    files = {file["mime"]: file for file in output["metadata"]["kernelagent"]["spilled"]}
    if data:
        kept = Path(files["image/png"]["path"]).read_bytes()
        assert kept == (data.encode() if isinstance(data, str) else orjson.dumps(data))


async def test_data_beyond_the_budget_is_kept_as_json(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=50)
    data = {"rows": [["ä", 1.5, None]] * 20}
    run.take("display_data", data={"application/vnd.x+json": data}, metadata={}, transient={})
    await run.close()
    (file,) = run.outputs[0]["metadata"]["kernelagent"]["spilled"]
    assert file["path"].endswith(".json")
    assert orjson.loads(Path(file["path"]).read_bytes()) == data


async def test_small_outputs_still_fit_after_one_that_did_not(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    run.show(text_plain="x" * 2000)
    run.show(text_plain="small")
    run.print("small")
    assert run.plain[1] == "small"
    assert run.text == "small"
    await run.close()


async def test_updates_beyond_the_budget_win_no_room(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1000)
    run.show("a", text_plain="x" * 500)
    for _ in range(20):
        run.update("a", text_plain="y" * 2000)
    assert run.collector.truncation.kept_bytes == 0
    run.update("a", text_plain="z" * 900)
    assert run.plain == ["z" * 900]
    run.show(text_plain="w" * 500)
    assert run.plain[1].startswith("[kernelagent: ")
    assert (await run.close()).kept_bytes == 910


async def test_outputs_of_one_id_are_kept_or_cut_together(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1000)
    run.show("a", text_plain="x")
    run.show("a", text_plain="x")
    run.update("a", text_plain="y" * 600)
    assert run.plain[0] == run.plain[1]
    assert run.plain[0].startswith("[kernelagent: ")
    assert run.outputs == replayed(run.events)
    await run.close()


async def test_markers_of_a_foreign_update_take_no_room(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=100)
    for _ in range(5):
        run.update("earlier", text_plain="x" * 200)
    assert run.collector.truncation.kept_bytes == 0
    run.take("clear_output", wait=False)
    assert run.collector.truncation.kept_bytes == 0
    assert "kernelagent" in run.collector.updates[0].metadata
    await run.close()


async def test_what_exceeds_the_files_too_is_counted_as_lost(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024, spill=1000)
    run.print("x" * 5000)
    run.show(text_plain="y" * 3000)
    facts = await run.close()
    assert facts.lost_bytes == 5000 - 1024 - 1000 + 3000
    assert facts.kept_bytes + facts.files[0]["bytes"] == 2024
    assert "were dropped" in run.plain[0]


async def test_without_files_the_marker_says_that_the_rest_is_gone(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024, items=1, spill=0)
    run.print("x" * 5000)
    run.show(text_plain="kept")
    run.show(text_plain="lost")
    facts = await run.close()
    assert "stdout exceeds the output budget; the rest was not kept" in run.text
    assert "more than 1 displays; the rest was not kept" in run.text
    assert (facts.lost_bytes, facts.files) == (5000 - 1024 + 4 + 4, [])
    assert list(tmp_path.iterdir()) == []


async def test_an_error_is_kept_when_the_budget_is_used_up(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    run.print("x" * 5000)
    run.fail("KeyError", ["line one", "line two"])
    assert run.outputs[-1]["traceback"] == ["line one", "line two"]
    assert run.collector.error == run.outputs[-1]
    await run.close()


async def test_a_long_traceback_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.fail("RecursionError", ["first line", *["x" * 100] * 100_000, "last line"])
    traceback = "\n".join(run.outputs[0]["traceback"])
    assert traceback.startswith("first line")
    assert traceback.endswith("last line")
    assert "characters ...]" in traceback
    assert len(traceback) < 300_000


async def test_a_long_name_and_value_of_an_error_are_cut(tmp_path: Path) -> None:
    run = Collected(tmp_path)
    run.take("error", ename="N" * 10_000_000, evalue="v" * 10_000_000, traceback=[])
    assert len(run.outputs[0]["ename"]) < 2000
    assert len(run.outputs[0]["evalue"]) < 300_000


async def test_errors_without_end_do_not_fill_the_memory(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=10_000)
    for number in range(1000):
        run.fail(f"Error{number}", ["x" * 1000])
    assert sum(output["output_type"] == "error" for output in run.outputs) == 19
    assert run.collector.error is not None
    assert run.collector.error["ename"] == "Error999"
    facts = await run.close()
    assert facts.truncated
    assert facts.kept_bytes + facts.files[0]["bytes"] == facts.total_bytes


async def test_streams_that_take_turns_do_not_fill_the_memory(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=100_000)
    for _ in range(20_000):
        run.print("o")
        run.print("e", "stderr")
    assert len(run.outputs) < 4000
    assert len(orjson.dumps(run.outputs)) < 300_000
    facts = await run.close()
    assert facts.total_bytes == 40_000
    assert facts.kept_bytes + sum(file["bytes"] for file in facts.files) == 40_000


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


async def test_metadata_counts_towards_the_budget(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    run.take("display_data", data={"text/plain": "x"}, metadata={"text/plain": "m" * 5000})
    assert len(orjson.dumps(run.outputs)) < 1024
    await run.close()


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
