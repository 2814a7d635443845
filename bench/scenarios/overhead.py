"""What the service adds to a small call, beside a plain route that does the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.findings import OURS, Findings
from bench.samples import Samples, interleave, timed

PLAIN = "plain Starlette route"

_LIMIT_MS = 1.0
_WARM_UP = 20

Answer = dict[str, Any]


def measure_overhead(
    findings: Findings,
    what: str,
    calls: Mapping[str, Callable[[], Answer]],
    check: Callable[[Answer], None],
    rounds: int,
) -> None:
    """Time `calls`, one for OURS and one for PLAIN, and expect less than 1 ms between them."""
    measures = {name: timed(call, check) for name, call in calls.items()}
    for measure in measures.values():
        for _ in range(_WARM_UP):
            measure()
    samples = interleave(measures, rounds)
    findings.add(what, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    pairs = zip(samples[OURS].values, samples[PLAIN].values, strict=True)
    added = Samples([ours - plain for ours, plain in pairs])
    overhead = f"{what}: what the service adds"
    findings.add(overhead, "ms", {OURS: added.scaled(1000)})
    findings.expect_below(overhead, _LIMIT_MS)
