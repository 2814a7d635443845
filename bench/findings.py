"""What a scenario comes to: rows of numbers, and the targets they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.samples import Samples

OURS = "kernelagent"


@dataclass(frozen=True, slots=True)
class Row:
    """One variant in one case; `ratio` is its median over ours."""

    case: str
    variant: str
    unit: str
    count: int
    low: float
    median: float
    p95: float
    high: float
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A promise, what was measured, and whether it was kept."""

    name: str
    wanted: str
    measured: str
    met: bool


@dataclass(slots=True)
class Findings:
    """Everything that one scenario reports."""

    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, case: str, unit: str, samples: Mapping[str, Samples], *, baseline: str = OURS
    ) -> None:
        """Add one case: a row for each variant, with its ratio to `baseline`."""
        base = samples[baseline].median if baseline in samples else 0.0
        for variant, measured in samples.items():
            self.rows.append(
                Row(
                    case,
                    variant,
                    unit,
                    len(measured.values),
                    min(measured.values),
                    measured.median,
                    measured.quantile(0.95),
                    max(measured.values),
                    measured.median / base if base else None,
                )
            )

    def expect_ratio(self, case: str, variant: str, at_least: float) -> None:
        """Hold the ratio of `variant` to ours against a target."""
        row = next(row for row in self.rows if (row.case, row.variant) == (case, variant))
        ratio = row.ratio or 0.0
        self.targets.append(
            Target(
                f"{case}: against {variant}",
                f"at least {at_least:g} times faster",
                f"{ratio:.2f} times",
                ratio >= at_least,
            )
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: `fixed` rounds, or each scenario's own number, or few."""

    fixed: int | None = None
    quick: bool = False

    def rounds(self, usual: int, few: int) -> int:
        """The number of rounds of one case."""
        if self.fixed is not None:
            return self.fixed
        return few if self.quick else usual
