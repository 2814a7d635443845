"""`python -m bench`: measure, print, and write what was found."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.findings import Findings, Plan
from bench.machine import describe_machine
from bench.report import print_findings, print_targets, write_json
from bench.samples import PeerFailed
from bench.scenarios import SCENARIOS

_BUSY = 0.75
_WIDTH = 124


def main(
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of every case, instead of its own number.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few rounds: does it work at all?")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"One scenario; may be repeated. {', '.join(SCENARIOS)}. Default: all."),
    ] = None,
    json: Annotated[Path, typer.Option(help="Where the numbers go.")] = Path("out/bench.json"),
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a target is missed.")
    ] = False,
) -> None:
    """Measure the service against what one would use instead, on this machine, in one run.

    A ratio says how many times as much as ours a variant takes. Only ratios can be compared
    between machines or days.
    """
    unknown = set(only or ()) - set(SCENARIOS)
    if unknown:
        raise typer.BadParameter(f"no such scenario: {', '.join(sorted(unknown))}")
    # Wide enough for the tables when the output goes to a file.
    console = Console(width=max(Console().width, _WIDTH))
    machine = describe_machine()
    console.print(
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}, load {machine['load']}"
    )
    if os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1):
        console.print("The machine is busy: milliseconds will be high, ratios less so.")
    plan = Plan(rounds, quick)
    found: dict[str, Findings] = {}
    for name, scenario in SCENARIOS.items():
        if only and name not in only:
            continue
        with console.status(name) as status:
            try:
                found[name] = scenario.run(plan, status.update)
            except PeerFailed as error:
                found[name] = Findings()
                found[name].fail(name, "a peer", str(error))
        print_findings(console, f"{name}: {scenario.title}", found[name])
    print_targets(console, found)
    write_json(json, machine, plan, found)
    console.print(f"All numbers: {json}")
    missed = any(not target.met for findings in found.values() for target in findings.targets)
    if strict and missed:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
