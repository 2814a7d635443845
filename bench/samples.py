"""Numbers of one kind, and how variants take turns to make them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
Thing = TypeVar("Thing")

# Does one thing and returns how long it took, in seconds.
Measure = Callable[[], float]


class PeerFailed(Exception):
    """What we are compared with did not do what it was asked for; that is its row then."""


class Peer(Generic[Thing]):
    """Something of others that is started when it is first used; from then on it is there or not.

    Raises PeerFailed whenever it is used if it did not start.
    """

    def __init__(self, start: Callable[[], Thing]) -> None:
        self._start = start
        self._thing: Thing | None = None
        self._failure: PeerFailed | None = None

    def get(self) -> Thing:
        if self._failure is not None:
            raise self._failure
        if self._thing is None:
            try:
                self._thing = self._start()
            except Exception as error:
                self._failure = _failed(error)
                raise self._failure from error
        return self._thing


def of_peer(measure: Measure) -> Measure:
    """The same; whatever goes wrong in it is the peer's failure."""

    def measured() -> float:
        try:
            return measure()
        except Exception as error:
            raise _failed(error) from error

    return measured


def _failed(error: Exception) -> PeerFailed:
    if isinstance(error, PeerFailed):
        return error
    return PeerFailed(f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class Samples:
    """Measured values of one variant, in whatever unit; none if it failed."""

    values: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quantile(self, share: float) -> float:
        """The value below which `share` of the values are."""
        ordered = sorted(self.values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def scaled(self, factor: float) -> Samples:
        """The same values in another unit."""
        return Samples([value * factor for value in self.values], self.failure)


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
    variant, so that none always follows the same one. A peer that fails is left out from then on.
    """
    samples = {name: Samples() for name in variants}
    names = list(variants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if samples[name].failure:
                continue
            if before_turn is not None:
                before_turn()
            try:
                for _ in range(turn):
                    samples[name].values.append(variants[name]())
            except PeerFailed as error:
                samples[name] = Samples(failure=str(error))
    return samples
