"""5,000 random interrupts of lean kernels under load, and one at each place, lose nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from prove.report import Report
from tests.kernels.sweeping import CELLS, fault_of, sweep
from tests.kernels.test_protocol import WAITS, Client, Host, Variant, connected, hosting

LIMIT = 1500
INTERRUPTS = 5000
BUSY_PROCESSES = 2

# Cells that end by themselves, so that interrupts come before, in, at the end of and behind them.
SHORT = (
    "pass",
    "print(1)",
    "5",
    "1 / 0",
    "display({'text/plain': '1'}, raw=True)",
    "import os; x = os.write(1, b'1\\n')",
    "import asyncio; await asyncio.sleep(0); print(1)",
)
# What comes behind this many lines of a cell is IPython's way of showing its traceback.
_OWN_LINES = 800
_SAMPLES = 150


def prove(report: Report) -> None:
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY_PROCESSES)
    ]
    try:
        for forked in (True, False):
            variant = Variant(lean=True, forked=forked)
            with (
                tempfile.TemporaryDirectory() as workspace,
                hosting(Path(workspace), variant) as host,
            ):
                _interrupt_at_random(report, host, str(variant))
                if not forked:
                    _interrupt_everywhere(report, host)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _interrupt_at_random(report: Report, host: Host, variant: str) -> None:
    """Half of all interrupts, on one kernel; one in five is a double one."""
    statuses: Counter[str] = Counter()
    sent = faults = 0
    began = time.monotonic()
    with connected(host.start()) as client:
        client.run("state = 42")
        while sent < INTERRUPTS // 2:
            signals = 2 if report.chance.random() < 0.2 else 1
            if report.chance.random() < 0.25:
                code = WAITS[report.chance.choice(sorted(WAITS))]
                msg_id = client.start(code, stop_on_error=False)
            else:
                msg_id = client.execute(report.chance.choice(SHORT), stop_on_error=False)
                time.sleep(report.chance.uniform(0, 0.003))
            for number in range(signals):
                if number:
                    time.sleep(report.chance.uniform(0, 0.02))
                client.interrupt()
                sent += 1
            cell = client.finish(msg_id)
            status = cell.reply.content["status"]
            statuses[status] += 1
            fault = fault_of(cell)
            if fault:
                faults += 1
                report.check(False, f"{variant}: {fault}: {cell.labels}")
            client.iopub.clear()
            if sum(statuses.values()) % 500 == 0:
                report.say(f"{variant}: {sent} interrupts")
        _check_state(report, client, variant)
    report.say(
        f"{variant}: {sent} interrupts of {sum(statuses.values())} runs in "
        f"{time.monotonic() - began:.0f} s; {statuses['error']} failed, {statuses['ok']} were over"
    )
    report.figure(f"{variant}: runs whose reply and outputs disagree", faults, most=0)
    report.check(
        statuses["error"] > 0 and statuses["ok"] > 0, "interrupts met runs and missed some"
    )


def _interrupt_everywhere(report: Report, host: Host) -> None:
    """Each line of a cell and what is around it; a sample of those that show its traceback."""
    with connected(host.start()) as client:
        client.run("state = 42")
        for cell in CELLS:
            numbers = [
                *range(1, _OWN_LINES),
                *sorted(report.chance.sample(range(_OWN_LINES, 120_000), _SAMPLES)),
            ]
            places = sweep(client, cell, numbers)
            faults = [place for place in places if place.fault]
            report.figure(f"{cell}: places interrupted", len(places))
            for place in faults[:5]:
                report.say(f"{place}")
            report.figure(f"{cell}: places where reply and outputs disagree", len(faults), most=0)
        _check_state(report, client, "everywhere")


def _check_state(report: Report, client: Client, where: str) -> None:
    told = client.run("print(state)")
    report.check(told.text() == "42\n", f"{where}: the state is kept: {told.labels}")
    report.check(client.silent_on("shell"), f"{where}: each request was answered once")
