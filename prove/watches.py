"""What watches tell of 1,000 trees, however they were changed, leads to what is there."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from prove.report import Report
from tests.watch.looks import follow, replay

LIMIT = 900
REPLAYS = 1000
FOLLOWED = 60


def prove(report: Report) -> None:
    _play(report, "looked at", replay, REPLAYS)
    _play(report, "watched", follow, FOLLOWED)


def _play(
    report: Report, name: str, play: Callable[[random.Random, Path], None], count: int
) -> None:
    for number in range(count):
        seed = report.chance.getrandbits(32)
        with tempfile.TemporaryDirectory() as root:
            try:
                play(random.Random(seed), Path(root))  # noqa: S311
            except AssertionError as error:
                report.check(False, f"a tree that is {name}, with seed {seed}: {error}")
        if number % 100 == 99:
            report.say(f"{number + 1} trees {name}")
