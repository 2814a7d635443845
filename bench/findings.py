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
    # Why there are no numbers.
    failure: str = ""


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
            if measured.failure:
                self.fail(case, variant, measured.failure, unit=unit)
                continue
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

    def fail(self, case: str, variant: str, failure: str, *, unit: str = "") -> None:
        """Add a row that says why a peer has no numbers."""
        self.rows.append(Row(case, variant, unit, 0, 0, 0, 0, 0, failure=failure))

    def count(self, what: str, moments: Mapping[str, float]) -> None:
        """Add one number at several moments, which has no unit and is compared with nothing."""
        for moment, value in moments.items():
            self.rows.append(Row(what, moment, "", 1, value, value, value, value))

    def expect_ratio(
        self, case: str, variant: str, at_least: float, *, ours: str = OURS, how: str = "faster"
    ) -> None:
        """Hold the median of `variant`, as a multiple of that of `ours`, against a target."""
        peer = self._row(case, variant)
        if peer.failure:
            self.notes.append(f"{case}: nothing to compare with, {variant} failed")
            return
        ratio = peer.median / self._row(case, ours).median
        whose = "" if ours == OURS else f"{ours}, "
        self.targets.append(
            Target(
                f"{case}: {whose}against {variant}",
                f"at least {at_least:g} times {how}" if at_least > 1 else "not slower",
                f"{ratio:.2f} times",
                ratio >= at_least,
            )
        )

    def expect_at_most(self, case: str, variant: str, times: float, *, baseline: str) -> None:
        """Hold the median of `variant`, as a multiple of that of `baseline`, against a bound."""
        ratio = self._row(case, variant).median / self._row(case, baseline).median
        self.targets.append(
            Target(
                f"{case}: {variant} against {baseline}",
                f"at most {times:g} times as long",
                f"{ratio:.2f} times",
                ratio <= times,
            )
        )

    def expect_below(self, case: str, limit: float, *, ours: str = OURS, p95: bool = False) -> None:
        """Hold the median, or the 95th percentile, of `ours` against an upper bound."""
        row = self._row(case, ours)
        measured = row.p95 if p95 else row.median
        self.targets.append(
            Target(
                case if ours == OURS else f"{case}: {ours}",
                f"{'p95' if p95 else 'median'} under {limit:g} {row.unit}",
                f"{measured:.1f} {row.unit}, at most {row.high:.1f} {row.unit}",
                measured < limit,
            )
        )

    def expect_none(self, name: str, wanted: str, found: Mapping[str, float]) -> None:
        """Hold numbers of what should not be, by what it is, against zero."""
        there = {what: number for what, number in found.items() if number}
        self.targets.append(
            Target(
                name,
                wanted,
                ", ".join(f"{number:g} {what}" for what, number in there.items()) or "none",
                not there,
            )
        )

    def _row(self, case: str, variant: str) -> Row:
        return next(row for row in self.rows if (row.case, row.variant) == (case, variant))


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
