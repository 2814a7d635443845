"""Findings as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.findings import Findings, Row


def print_findings(console: Console, title: str, findings: Findings) -> None:
    """The rows of one scenario."""
    if any(row.unit or row.failure for row in findings.rows):
        console.print(_distribution(title, findings.rows))
    else:
        console.print(_counts(title, findings.rows))
    for row in findings.rows:
        if row.failure:
            console.print(f"{row.variant} failed: {row.failure}", style="red", markup=False)
    for note in findings.notes:
        console.print(note, style="dim")
    console.print()


def print_targets(console: Console, found: Mapping[str, Findings]) -> None:
    """All targets, with what was measured."""
    table = Table(title="targets", title_justify="left")
    for column in ("what", "wanted", "measured", ""):
        table.add_column(column)
    for findings in found.values():
        for target in findings.targets:
            verdict = "[green]ok[/]" if target.met else "[red]missed[/]"
            table.add_row(target.name, target.wanted, target.measured, verdict)
    if table.row_count:
        console.print(table)


def write_json(
    path: Path, machine: Mapping[str, object], plan: Any, found: Mapping[str, Findings]
) -> None:
    """Everything, in one file."""
    content = {
        "machine": machine,
        "plan": dataclasses.asdict(plan),
        "scenarios": {name: dataclasses.asdict(findings) for name, findings in found.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def _distribution(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("case", "variant"):
        table.add_column(column, no_wrap=True)
    for column in ("median", "p95", "min", "max", "n", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    last = ""
    for row in rows:
        if last and row.case != last:
            table.add_section()
        case = f"{row.case} ({row.unit})" if row.case != last else ""
        table.add_row(case, row.variant, *_numbers(row))
        last = row.case
    return table


def _numbers(row: Row) -> Iterator[str]:
    if row.failure:
        yield "failed"
        return
    yield from map(_rounded, (row.median, row.p95, row.low, row.high))
    yield str(row.count)
    yield "" if row.ratio is None else f"{row.ratio:.2f}"


def _rounded(number: float) -> str:
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{digits}f}"


def _counts(title: str, rows: list[Row]) -> Table:
    moments = list(dict.fromkeys(row.variant for row in rows))
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("of the server")
    for moment in moments:
        table.add_column(moment, justify="right")
    for case in dict.fromkeys(row.case for row in rows):
        table.add_row(
            case, *(f"{row.median:.1f}".removesuffix(".0") for row in rows if row.case == case)
        )
    return table
