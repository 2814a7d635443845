"""Small cells on a warm kernel, from the client's request to the parsed answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.clients import Shown
from bench.findings import Findings, Plan
from bench.samples import interleave
from bench.scenarios.variants import (
    GATEWAY,
    GATEWAY_QUICK,
    NAIVE,
    ONE,
    PLOT,
    PLOTTED,
    expect,
    timed_run,
    warm_runners,
    warm_up,
)

# code; what it must show; rounds; rounds of a quick run; measurements in one turn
_CASES: dict[str, tuple[str, Shown, int, int, int]] = {
    "1": ("1", ONE, 100, 10, 5),
    "print(1)": ("print(1)", Shown("1\n", "", 0), 100, 10, 5),
    "plot of 1,000 points": (PLOT, PLOTTED, 15, 3, 1),
}
_WARM_UP = 10


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting four servers and kernels")
    with warm_runners() as runners:
        for case, (code, wanted, usual, few, turn) in _CASES.items():
            say(case)
            measures = {
                name: timed_run(runner, code, partial(expect, wanted))
                for name, runner in runners.items()
            }
            warm_up(measures, _WARM_UP)
            samples = interleave(measures, plan.rounds(usual, few), turn=turn)
            findings.add(case, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    findings.expect_ratio("1", NAIVE, 3.0)
    findings.expect_ratio("1", GATEWAY, 5.0)
    findings.expect_ratio("1", GATEWAY_QUICK, 1.5)
    return findings
