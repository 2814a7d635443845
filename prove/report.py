"""What a proof prints: its figures, and which of its claims did not hold."""

from __future__ import annotations

import random
import time


class Report:
    """The seed, the chance made from it, the figures and the failures of one proof."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not secret
        self.failures: list[str] = []
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Print progress, with the seconds since the start."""
        print(f"[{time.monotonic() - self._begun:6.1f} s] {text}", flush=True)

    def figure(self, name: str, value: float, unit: str = "", *, most: float | None = None) -> None:
        """Print a measured value; it is a failure if it is greater than `most`."""
        bound = "" if most is None else f" (at most {most:g})"
        self.say(f"{name}: {value:g}{' ' if unit else ''}{unit}{bound}")
        if most is not None and value > most:
            self.failures.append(f"{name} is {value:g}, more than {most:g}")

    def check(self, holds: bool, claim: str) -> None:
        """Record that `claim` does not hold, if so, and go on."""
        if not holds:
            self.failures.append(claim)
            self.say(f"FAILED: {claim}")

    def close(self) -> int:
        """Print the result; return the exit code."""
        for failure in self.failures:
            print(f"{self.name}: FAILED: {failure}")
        seconds = time.monotonic() - self._begun
        word = "failed" if self.failures else "holds"
        print(f"{self.name} (seed {self.seed}): {word} after {seconds:.0f} s", flush=True)
        return 1 if self.failures else 0
