"""One module for each scenario; `run` measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.findings import Findings, Plan
from bench.scenarios import (
    branch,
    cache,
    commands,
    files,
    first_plot,
    floods,
    interrupts,
    isolation,
    jobs,
    languages,
    leaks,
    measuring,
    memory,
    notebook,
    start,
    terminals,
    warm,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to measure; `run` takes how much of it, and where to say what goes on."""

    title: str
    run: Callable[[Plan, Callable[[str], None]], Findings]


SCENARIOS: dict[str, Scenario] = {
    "warm": Scenario("a cell on a warm kernel", warm.run),
    "start": Scenario("a new session to its first result", start.run),
    "first_plot": Scenario("the first plot of a session", first_plot.run),
    "memory": Scenario("memory of servers and kernels", memory.run),
    "branch": Scenario("copies of a session that holds 400 MB", branch.run),
    "interrupts": Scenario("interrupts around the end of a cell", interrupts.run),
    "floods": Scenario("much output", floods.run),
    "leaks": Scenario("what a hundred sessions leave behind", leaks.run),
    "languages": Scenario("languages beside Python", languages.run),
    "isolation": Scenario("isolation, what its layers cost", isolation.run),
    "jobs": Scenario("jobs, one and 200 at once", jobs.run),
    "commands": Scenario("commands, small ones and a gigabyte", commands.run),
    "terminals": Scenario("terminals, a key and 50 MiB", terminals.run),
    "measuring": Scenario("what it costs to measure", measuring.run),
    "files": Scenario("files, a small one", files.run),
    "notebook": Scenario("a notebook of 20 cells", notebook.run),
    "cache": Scenario("a cached run of two seconds", cache.run),
}
