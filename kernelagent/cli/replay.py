"""`kernelagent replay`: run a notebook on a server, keep what it shows."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernelagent.cli.connection import DEFAULT_URL, Token, Url, complete, fresh_session, own_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbformat import NotebookNode
    from rich.console import Console

    from kernelagent.notebooks.replay import CellReport


def replay(
    notebook: Annotated[
        Path, typer.Argument(help="The .ipynb file.", exists=True, dir_okay=False, readable=True)
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    out: Annotated[
        Path, typer.Option(help="Directory for the executed notebook and its figures.")
    ] = Path("out"),
    language: Annotated[
        str | None, typer.Option(help="Language; default: the one that the notebook names.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Time limit of each cell in seconds; default: the server's."),
    ] = None,
    workdir: Annotated[
        str | None, typer.Option(help="Directory on the server; default: its workspace.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a cell that fails.")
    ] = False,
) -> None:
    """Run a notebook, cell by cell, in a fresh session of a server.

    Writes the executed notebook to DIR/NAME.ipynb and each figure to DIR/NAME-cell03-1.png.
    Cells tagged raises-exception may raise; any other failure ends the replay with exit code 1.
    """
    from kernelagent.notebooks.replay import NotebookError, notebook_language, read_notebook

    target = out / f"{notebook.stem}.ipynb"
    if target.absolute() == notebook.absolute() or (target.exists() and target.samefile(notebook)):
        raise typer.BadParameter(f"{target} is the notebook itself; choose another --out")
    try:
        document = read_notebook(notebook)
    except NotebookError as error:
        raise typer.BadParameter(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{notebook} cannot be read: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    options = {
        "language": language or notebook_language(document),
        "timeout": timeout,
        "workdir": workdir,
        "keep_going": keep_going,
    }
    complete(_replay(url, token or own_token(url), document, target, options))


async def _replay(
    url: str, token: str | None, document: NotebookNode, target: Path, options: dict[str, Any]
) -> int:
    from rich.console import Console

    from kernelagent.client import AsyncClient
    from kernelagent.notebooks.replay import code_cells, replay_notebook

    console = Console(highlight=False)
    reports: list[CellReport] = []
    started = time.monotonic()
    async with (
        AsyncClient(url, token=token) as client,
        fresh_session(client, options["language"]) as session_id,
    ):

        async def execute(code: str) -> dict[str, Any]:
            return await client.execute_rich(
                code,
                session_id=session_id,
                timeout=options["timeout"],
                workdir=options["workdir"],
            )

        try:
            with _progress(console, target.stem, len(code_cells(document))) as advance:

                def on_cell(report: CellReport) -> None:
                    reports.append(report)
                    advance(report)

                await replay_notebook(document, execute, on_cell, keep_going=options["keep_going"])
        finally:
            # What was run is kept, however the replay ends.
            figures = _write(document, target)
    seconds = time.monotonic() - started
    _summarize(console, reports, target, figures, seconds)
    return 1 if any(report.failed for report in reports) else 0


@contextlib.contextmanager
def _progress(console: Console, name: str, total: int) -> Iterator[Callable[[CellReport], None]]:
    """A progress bar; plain lines where nobody watches."""
    if not console.is_terminal:
        yield lambda report: console.print(_line(report), soft_wrap=True, markup=False)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=total)

        def advance(report: CellReport) -> None:
            progress.advance(task)
            if report.failed:
                progress.console.print(_line(report), soft_wrap=True, markup=False)

        yield advance


def _line(report: CellReport) -> str:
    outcome = report.outcome
    if report.expected_error:
        outcome = f"expected error, {report.message}"
    elif report.failed:
        outcome = f"FAILED, {report.outcome}"
    figures = f", {report.figures} figures" if report.figures > 1 else ""
    if report.figures == 1:
        figures = ", 1 figure"
    return f"cell {report.number}/{report.total}: {outcome}{figures}, {report.seconds:.2f} s"


def _write(document: NotebookNode, target: Path) -> int:
    """Write the notebook and its figures; returns the number of figures."""
    import nbformat

    from kernelagent.notebooks.replay import figure_files

    _write_whole(target, nbformat.writes(document, version=4).encode() + b"\n")
    number = 0
    for name, content in figure_files(document, target.stem):
        _write_whole(target.parent / name, content)
        number += 1
    return number


def _write_whole(path: Path, content: bytes) -> None:
    """Write `path` so that it is never seen half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _summarize(
    console: Console, reports: list[CellReport], target: Path, figures: int, seconds: float
) -> None:
    from rich.table import Table
    from rich.text import Text

    for report in reports:
        if report.failed:
            place = f"cell {report.number} of {report.total} ({report.cell_id}) failed"
            console.print(
                f"{place}: {report.message or report.outcome}", soft_wrap=True, markup=False
            )
            if report.traceback:
                console.print(Text.from_ansi(report.traceback), soft_wrap=True)
    total = reports[0].total if reports else 0
    table = Table()
    for heading in ("cells", "errors expected", "figures", "seconds"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{len(reports)} of {total}" if len(reports) < total else str(total),
        str(sum(report.expected_error for report in reports)),
        str(figures),
        f"{seconds:.2f}",
    )
    console.print(table)
    console.print(f"wrote {target}", soft_wrap=True, markup=False)
