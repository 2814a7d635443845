"""Interrupts at any moment lose nothing: no reply, no error output, no state, no line of output.

Random ones meet all kinds of cells on both kinds of lean kernels, single, double and more, while
two busy processes take the processors. Then one comes at each place of short cells in turn.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from prove.report import Report
from tests.kernels.python.interrupting import (
    FAILING,
    SHORT,
    Ended,
    Moments,
    interrupt_short,
    interrupt_waiting,
)
from tests.kernels.python.protocol import WAITS, Client, Host, Variant, connected, hosting
from tests.kernels.python.sweeping import CELLS, sweep

LIMIT = 600

_PER_KIND = 2500
_BUSY = 2
# Python waits a quarter of a second for an interrupted subprocess, and output fills up meanwhile.
_SELDOM = {"subprocess"}
_LINES = 30
_SAY = 500


def prove(report: Report) -> None:
    totals: Counter[str] = Counter()
    with _load(), tempfile.TemporaryDirectory() as directory:
        for forked in (True, False):
            variant = Variant(lean=True, forked=forked)
            with hosting(Path(directory) / str(variant), variant) as host:
                _interrupt_at_random(report, host, totals)
                _interrupt_everywhere(report, host, totals)
    for name in ("interrupts sent", "cells interrupted", "interrupts that met a run"):
        report.figure(name, totals[name])
    report.figure("places swept", totals["places"])
    for name in ("errors without output", "other faults", "replies lost", "states lost"):
        report.figure(name, totals[name], most=0)
    report.check(totals["interrupts sent"] >= 2 * _PER_KIND, "enough interrupts were sent")


@contextlib.contextmanager
def _load() -> Iterator[None]:
    """Processes that take the processors."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(_BUSY)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _interrupt_at_random(report: Report, host: Host, totals: Counter[str]) -> None:
    sent = 0
    while sent < _PER_KIND:
        # A kernel that has lost a reply is no use any more.
        with connected(host.start()) as client:
            client.run("state = 42")
            sent += _until_lost(report, client, totals, _PER_KIND - sent)


def _until_lost(report: Report, client: Client, totals: Counter[str], wanted: int) -> int:
    """Interrupt until as many interrupts are sent as are wanted, or a reply is lost."""
    moments = Moments(report.chance)
    sent = 0
    for number in count(1):
        try:
            ended = _interrupt_one(report, client, moments)
        except AssertionError as error:
            totals["replies lost"] += 1
            report.say(f"lost: {error}")
            return sent + 1
        client.iopub.clear()
        sent += ended.sent
        totals["interrupts sent"] += ended.sent
        totals["cells interrupted"] += 1
        totals["interrupts that met a run"] += ended.met
        _count_faults(report, ended.faults, totals)
        if number % 25 == 0 or sent >= wanted:
            totals["states lost"] += client.run("print(state)").text() != "42\n"
        if number % _SAY == 0:
            report.say(f"{sent} interrupts of {wanted}")
        if sent >= wanted:
            report.check(client.silent_on("shell"), "there is one reply to each request")
            return sent
    raise AssertionError


def _interrupt_one(report: Report, client: Client, moments: Moments) -> Ended:
    chance = report.chance
    times = chance.choice((1, 2, 2, 3, 4))
    name = chance.choice([*WAITS, *SHORT, *FAILING])
    while name in _SELDOM and chance.random() > 0.1:
        name = chance.choice([*WAITS, *SHORT, *FAILING])
    if name in WAITS:
        return interrupt_waiting(client, name, chance, times)
    return interrupt_short(client, name, moments, times)


def _interrupt_everywhere(report: Report, host: Host, totals: Counter[str]) -> None:
    with connected(host.start()) as client:
        client.run("state = 42")
        for cell in CELLS:
            # Another offset for each seed: the first sixteen together come to every place.
            step = 16
            lines = [
                *range(1 + report.seed % step, 800, step),
                # What shows a traceback is some hundred thousand lines.
                *sorted(int(800 * 200 ** report.chance.random()) for _ in range(_LINES)),
            ]
            _sweep(report, client, cell, lines, "line", totals)
            _sweep(report, client, cell, range(1 + report.seed % 3, 45, 3), "lineless", totals)
        totals["states lost"] += client.run("print(state)").text() != "42\n"


def _sweep(
    report: Report,
    client: Client,
    cell: str,
    numbers: Iterable[int],
    event: str,
    totals: Counter[str],
) -> None:
    places = list(sweep(client, cell, numbers, event))
    totals["places"] += len(places)
    for place in places:
        _count_faults(report, [place.fault] if place.fault else [], totals, f" {place}")
    report.say(f"{cell}: {len(places)} places ({event})")


def _count_faults(report: Report, faults: list[str], totals: Counter[str], where: str = "") -> None:
    for fault in faults:
        missing = fault.startswith("published []")
        totals["errors without output" if missing else "other faults"] += 1
        report.say(f"{fault}{where}"[:600])
