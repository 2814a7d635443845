"""Replays a notebook: its code cells in order, their outputs put where they belong."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from kernelagent.errors import KernelagentError
from kernelagent.notebooks.figures import images

MAY_RAISE = "raises-exception"

Answer = dict[str, Any]
Execute = Callable[[str], Awaitable[Answer]]


class NotebookError(KernelagentError):
    """The file is no notebook."""


@dataclass(frozen=True, slots=True)
class CellReport:
    """What one code cell came to; `number` counts code cells from 1."""

    number: int
    total: int
    cell_id: str
    outcome: str
    success: bool
    may_raise: bool
    message: str
    traceback: str
    figures: int
    seconds: float

    @property
    def expected_error(self) -> bool:
        """It raised, as its tag says it may."""
        return self.outcome == "error" and self.may_raise

    @property
    def failed(self) -> bool:
        return not self.success and not self.expected_error


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in `path` in format 4.5; raises NotebookError and OSError."""
    text = path.read_text(encoding="utf-8")
    try:
        notebook = nbformat.reader.reads(text)
        notebook = nbformat.convert(notebook, 4)
        if notebook.nbformat_minor < 5:
            notebook = nbformat.v4.upgrade(notebook, 4, notebook.nbformat_minor)
        nbformat.validate(notebook)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise NotebookError(f"{path} is no valid notebook: {reason}") from error
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise NotebookError(f"{path} is no notebook") from error
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that a replay runs."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def notebook_language(notebook: NotebookNode) -> str:
    """The language that the notebook's metadata names, else python."""
    metadata = notebook.metadata
    named = metadata.get("language_info", {}).get("name")
    return str(named or metadata.get("kernelspec", {}).get("language") or "python")


async def replay_notebook(
    notebook: NotebookNode,
    execute: Execute,
    on_cell: Callable[[CellReport], None],
    *,
    keep_going: bool = False,
) -> list[CellReport]:
    """Run the code cells through `execute` and store what they show in `notebook`.

    Ends at the first cell that fails, unless `keep_going`; the cells after it have no outputs.
    Each answer is the body of /execute/rich. `on_cell` is called after each cell.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    reports: list[CellReport] = []
    cells = code_cells(notebook)
    previous: NotebookNode | None = None
    for number, cell in enumerate(cells, 1):
        started = time.monotonic()
        answer = await execute(cell.source)
        seconds = time.monotonic() - started
        # Threads of the cell before may have printed after it was over.
        _extend(previous if previous is not None else cell, answer.get("late_outputs") or [])
        _extend(cell, answer.get("outputs") or [])
        # Which earlier output an update belongs to is known to the kernel's own clients only, so
        # it is shown by the cell that made it.
        _extend(cell, [_shown(update) for update in answer.get("display_updates") or []])
        cell.execution_count = answer.get("execution_count")
        report = _report(cell, answer, number, len(cells), seconds)
        reports.append(report)
        on_cell(report)
        if report.failed and not keep_going:
            break
        previous = cell
    return reports


def figure_files(notebook: NotebookNode, stem: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each image in the outputs: `<stem>-cell03-1.png`."""
    cells = code_cells(notebook)
    width = max(2, len(str(len(cells))))
    for number, cell in enumerate(cells, 1):
        for index, (suffix, content) in enumerate(images(cell.outputs), 1):
            yield f"{stem}-cell{number:0{width}d}-{index}{suffix}", content


def _report(
    cell: NotebookNode, answer: Answer, number: int, total: int, seconds: float
) -> CellReport:
    error = answer.get("error") or {}
    return CellReport(
        number=number,
        total=total,
        cell_id=cell.id,
        outcome=str(answer["outcome"]),
        success=bool(answer["success"]),
        may_raise=MAY_RAISE in cell.metadata.get("tags", []),
        message=answer.get("message") or _first_line(error),
        traceback="\n".join(error.get("traceback") or []),
        figures=sum(1 for _ in images(cell.outputs)),
        seconds=seconds,
    )


def _first_line(error: dict[str, Any]) -> str:
    if not error:
        return ""
    return f"{error['ename']}: {error['evalue']}".splitlines()[0]


def _shown(update: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_type": "display_data",
        "data": update["data"],
        "metadata": update.get("metadata") or {},
    }


def _extend(cell: NotebookNode, outputs: list[dict[str, Any]]) -> None:
    for output in outputs:
        clean = _clean(output)
        last = cell.outputs[-1] if cell.outputs else None
        if (
            last is not None
            and last.output_type == clean.output_type == "stream"
            and last.name == clean.name
        ):
            last.text += clean.text
        else:
            cell.outputs.append(clean)


def _clean(output: dict[str, Any]) -> NotebookNode:
    """`output` with exactly the fields that the notebook format allows."""
    kind = output["output_type"]
    node: dict[str, Any] = {"output_type": kind}
    if kind == "stream":
        node |= {"name": output["name"], "text": output["text"]}
    elif kind == "error":
        node |= {key: output[key] for key in ("ename", "evalue", "traceback")}
    else:
        node["data"] = {mime: _clean_data(mime, data) for mime, data in output["data"].items()}
        node["metadata"] = output.get("metadata") or {}
        if kind == "execute_result":
            node["execution_count"] = output.get("execution_count")
    return nbformat.from_dict(node)


def _clean_data(mime: str, data: Any) -> Any:
    if isinstance(data, str) or mime == "application/json" or mime.endswith("+json"):
        return data
    return json.dumps(data)
