"""Outputs beyond the budget: files, markers, and true counts."""

from __future__ import annotations

import base64
from pathlib import Path

import orjson
import pytest

from kernelagent.jupyter.outputs import Truncation
from tests.jupyter.collecting import PNG, Collected, replayed


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


@pytest.mark.parametrize("parts", [(1000,), (999, 1), (1, 999)])
async def test_text_that_fills_the_budget_exactly_is_whole(
    tmp_path: Path, parts: tuple[int, ...]
) -> None:
    run = Collected(tmp_path, size=1000)
    for size in parts:
        run.print("x" * size)
    facts = await run.close()
    assert run.text == "x" * 1000
    assert (facts.truncated, facts.kept_bytes, facts.files) == (False, 1000, [])
    over = Collected(tmp_path, size=1000)
    over.print("x" * 1001)
    assert (await over.close()).truncated


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


async def test_metadata_counts_towards_the_budget(tmp_path: Path) -> None:
    run = Collected(tmp_path, size=1024)
    run.take("display_data", data={"text/plain": "x"}, metadata={"text/plain": "m" * 5000})
    assert len(orjson.dumps(run.outputs)) < 1024
    await run.close()
