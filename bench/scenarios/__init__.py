"""One module for each scenario; `run` measures it."""

from __future__ import annotations

from collections.abc import Callable

from bench.findings import Findings, Plan
from bench.scenarios import floods, leaks, memory, notebook, start, warm

# Takes how much to measure, and where to say what goes on.
Scenario = Callable[[Plan, Callable[[str], None]], Findings]

SCENARIOS: dict[str, tuple[str, Scenario]] = {
    "warm": ("a cell on a warm kernel", warm.run),
    "start": ("a new session to its first result", start.run),
    "memory": ("memory of servers and kernels", memory.run),
    "floods": ("much output", floods.run),
    "leaks": ("what a hundred sessions leave behind", leaks.run),
    "notebook": ("a notebook of 20 cells", notebook.run),
}
