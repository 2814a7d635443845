"""Numbers of one kind, and how variants take turns to make them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Answer = TypeVar("Answer")

# Does one thing and returns how long it took, in seconds.
Measure = Callable[[], float]


@dataclass(slots=True)
class Samples:
    """Measured values of one variant, in whatever unit."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quantile(self, share: float) -> float:
        """The value below which `share` of the values are."""
        ordered = sorted(self.values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def scaled(self, factor: float) -> Samples:
        """The same values in another unit."""
        return Samples([value * factor for value in self.values])


def timed(
    action: Callable[[], Answer], check: Callable[[Answer], object] = lambda _: None
) -> Measure:
    """`action` with a stopwatch; `check` gets what it returns, and raises if that is wrong."""

    def measure() -> float:
        started = time.perf_counter()
        answer = action()
        elapsed = time.perf_counter() - started
        check(answer)
        return elapsed

    return measure


def interleave(
    variants: Mapping[str, Measure],
    rounds: int,
    *,
    turn: int = 1,
    before_turn: Callable[[], None] | None = None,
) -> dict[str, Samples]:
    """Let the variants take turns, `turn` measurements each, for `rounds` rounds.

    Whatever else the machine does then hits all of them alike. Each round begins with another
    variant, so that none always follows the same one.
    """
    samples = {name: Samples() for name in variants}
    names = list(variants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if before_turn is not None:
                before_turn()
            for _ in range(turn):
                samples[name].values.append(variants[name]())
    return samples
