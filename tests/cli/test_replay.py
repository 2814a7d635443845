"""Notebooks that are replayed: by the function, and from the command line."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kernelagent.notebooks.replay import (
    CellReport,
    NotebookError,
    figure_files,
    read_notebook,
    replay_notebook,
)
from tests.command_line import kernelagent
from tests.servers import Service

QUICKSTART = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"
PNG = base64.b64encode(b"\x89PNG...").decode()


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data: Any) -> dict[str, Any]:
    names = {"png": "image/png", "svg": "image/svg+xml", "text": "text/plain"}
    bundle = {names.get(name, name): value for name, value in data.items()}
    return {"output_type": "display_data", "data": bundle, "metadata": {}}


def answer(*outputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"success": True, "outcome": "ok", "outputs": list(outputs), **fields}


def failure(outcome: str = "error") -> dict[str, Any]:
    error = {"ename": "ValueError", "evalue": "no", "traceback": ["ValueError: no"]}
    outputs = [{"output_type": "error", **error}]
    return {"success": False, "outcome": outcome, "outputs": outputs, "error": error}


class Script:
    """Answers cells in the order of its list."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.sources: list[str] = []

    async def __call__(self, code: str) -> dict[str, Any]:
        self.sources.append(code)
        return {"execution_count": len(self.sources), **self.answers[len(self.sources) - 1]}


def notebook_of(*sources: str, tags: list[str] | None = None) -> Any:
    cells = [new_code_cell(source, metadata={"tags": tags} if tags else {}) for source in sources]
    return new_notebook(cells=[new_markdown_cell("# Title"), *cells])


async def replayed(notebook: Any, *answers: dict[str, Any], **options: Any) -> list[CellReport]:
    seen: list[CellReport] = []
    reports = await replay_notebook(notebook, Script(*answers), seen.append, **options)
    assert seen == reports
    nbformat.validate(notebook)
    return reports


async def test_outputs_and_counts_are_stored() -> None:
    notebook = notebook_of("a", "", "b")

    reports = await replayed(
        notebook,
        answer(stream("1\n"), stream("2\n"), shown(png=PNG, text="<Figure>")),
        answer({"output_type": "execute_result", "data": {"text/plain": "3"}, "metadata": {}}),
    )

    _, first, empty, last = notebook.cells
    assert [output.output_type for output in first.outputs] == ["stream", "display_data"]
    assert first.outputs[0].text == "1\n2\n"
    assert first.outputs[1].data["image/png"] == PNG
    assert (first.execution_count, empty.execution_count, last.execution_count) == (1, None, 2)
    assert [(report.number, report.total, report.figures) for report in reports] == [
        (1, 2, 1),
        (2, 2, 0),
    ]


async def test_late_output_belongs_to_the_cell_before() -> None:
    notebook = notebook_of("a", "b")

    await replayed(
        notebook, answer(stream("now\n")), answer(stream("b\n"), late_outputs=[stream("late\n")])
    )

    assert notebook.cells[1].outputs[0].text == "now\nlate\n"
    assert notebook.cells[2].outputs[0].text == "b\n"


async def test_update_of_an_earlier_display_is_shown() -> None:
    notebook = notebook_of("a")
    update = {"display_id": "x", "data": {"text/plain": "new"}, "metadata": {}}

    await replayed(notebook, answer(display_updates=[update]))

    assert notebook.cells[1].outputs[0].data == {"text/plain": "new"}


async def test_data_that_is_no_text_stays_valid() -> None:
    notebook = notebook_of("a")
    data = {"application/vnd.x+json": {"a": 1}, "text/plain": ["a"], "application/x": 1}

    await replayed(notebook, answer(shown(**data)))

    assert notebook.cells[1].outputs[0].data == {
        "application/vnd.x+json": {"a": 1},
        "text/plain": '["a"]',
        "application/x": "1",
    }


async def test_first_failure_ends_the_replay_and_old_outputs_go() -> None:
    notebook = notebook_of("a", "b", "c")
    notebook.cells[3].outputs = [nbformat.from_dict(stream("old"))]

    reports = await replayed(notebook, answer(), failure())

    assert [report.failed for report in reports] == [False, True]
    assert reports[1].message == "ValueError: no"
    assert notebook.cells[2].outputs[0].ename == "ValueError"
    assert notebook.cells[3].outputs == []


async def test_keep_going_runs_the_rest() -> None:
    reports = await replayed(notebook_of("a", "b"), failure(), answer(), keep_going=True)

    assert [report.failed for report in reports] == [True, False]


async def test_tagged_cells_may_raise_but_not_kill_the_kernel() -> None:
    tagged = notebook_of("a", "b", tags=["raises-exception"])

    reports = await replayed(tagged, failure(), failure("kernel_died"))

    assert [report.expected_error for report in reports] == [True, False]
    assert [report.failed for report in reports] == [False, True]


async def test_figures_are_named_after_their_cell() -> None:
    notebook = notebook_of("a", "b")
    await replayed(notebook, answer(), answer(shown(png=PNG), shown(svg="<svg/>")))

    files = dict(figure_files(notebook, "plots"))

    assert files == {"plots-cell02-1.png": b"\x89PNG...", "plots-cell02-2.svg": b"<svg/>"}


def test_older_notebooks_get_ids(tmp_path: Path) -> None:
    old = {
        "nbformat": 4,
        "nbformat_minor": 2,
        "metadata": {},
        "cells": [{"cell_type": "markdown", "metadata": {}, "source": ["a"]}],
    }
    (tmp_path / "old.ipynb").write_text(json.dumps(old))

    notebook = read_notebook(tmp_path / "old.ipynb")

    assert notebook.nbformat_minor == 5
    assert notebook.cells[0].id


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"nbformat": 4, "nbformat_minor": 5}'])
def test_other_files_are_no_notebooks(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.ipynb").write_text(text)

    with pytest.raises(NotebookError):
        read_notebook(tmp_path / "x.ipynb")


def test_quickstart_replays(service: Service, tmp_path: Path) -> None:
    done = kernelagent("replay", str(QUICKSTART), cwd=tmp_path, **service.environment)

    assert (done.returncode, done.stderr) == (0, "")
    executed = nbformat.read(tmp_path / "out" / "quickstart.ipynb", as_version=4)
    nbformat.validate(executed)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    figures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert len(figures) == 5
    assert figures[1:3] == ["quickstart-cell06-1.png", "quickstart-cell06-2.png"]
    for name in figures:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    live = next(cell for cell in code if cell.id == "progress")
    assert "round 5 of 5" in live.outputs[0].data["text/markdown"]
    failed = [cell.id for cell in code if any(o.output_type == "error" for o in cell.outputs)]
    assert failed == ["expected-error"]
    assert code[-1].outputs[-1].output_type == "execute_result"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".ipynb", ".png"}


def test_quickstart_is_stored_without_outputs() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)

    nbformat.validate(notebook)
    assert notebook.nbformat_minor == 5
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_failing_cell_is_named_and_what_there_is_is_written(
    service: Service, tmp_path: Path
) -> None:
    notebook = notebook_of("x = 1\nprint(x)", "x / 0", "print('never')")
    notebook.cells[2].id = "division"
    nbformat.write(notebook, tmp_path / "bad.ipynb")

    done = kernelagent(
        "replay", "bad.ipynb", "--out", "results", cwd=tmp_path, **service.environment
    )

    assert done.returncode == 1
    assert "cell 2 of 3 (division) failed: ZeroDivisionError" in done.stdout
    executed = nbformat.read(tmp_path / "results" / "bad.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text == "1\n"
    assert executed.cells[2].outputs[0].ename == "ZeroDivisionError"
    assert executed.cells[3].outputs == []


def test_the_notebook_itself_is_not_overwritten(tmp_path: Path) -> None:
    nbformat.write(notebook_of("1"), tmp_path / "a.ipynb")

    done = kernelagent("replay", "a.ipynb", "--out", ".", cwd=tmp_path)

    assert done.returncode == 2
    assert "is the notebook itself" in done.stderr


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("{}")

    done = kernelagent("replay", "a.ipynb", cwd=tmp_path)

    assert done.returncode == 2
    assert "a.ipynb is no valid notebook" in done.stderr
