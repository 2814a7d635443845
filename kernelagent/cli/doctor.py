"""`kernelagent doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kernelagent.cli.diagnosis import Check

_STYLES = {"ok": "green", "missing": "bold red", "absent": "yellow"}
_LOG_WIDTH = 140


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check this machine: versions, languages, a real kernel, libraries, fonts, directories.

    Exits with 1 if something is missing that the service needs. What is absent only limits what
    code can use.
    """
    from kernelagent.cli.diagnosis import MISSING, diagnose
    from kernelagent.settings import load_settings

    checks = list(diagnose(load_settings()))
    missing = [check.name for check in checks if check.status == MISSING]
    if as_json:
        report = {"ok": not missing, "checks": [dataclasses.asdict(check) for check in checks]}
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(checks, missing)
    raise typer.Exit(1 if missing else 0)


def _show(checks: list[Check], missing: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("area", "what", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("found", "how to get it"):
        table.add_column(heading, overflow="fold")
    area = ""
    for check in checks:
        if area and check.area != area:
            table.add_section()
        table.add_row(
            check.area if check.area != area else "",
            Text(check.name),
            Text(check.status, style=_STYLES[check.status]),
            Text(check.detail),
            Text(check.how),
        )
        area = check.area
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    console.print(table)
    if missing:
        console.print(f"missing: {', '.join(missing)}", style="bold red", soft_wrap=True)
    else:
        console.print("everything that the service needs is here", style="green")
