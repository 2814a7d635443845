"""Much output, and how the rest of the service fares meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from bench.clients import HttpClient, NaiveRunner, OurRunner, Runner, Shown
from bench.findings import OURS, Findings, Plan
from bench.samples import Samples, interleave, timed
from bench.scenarios.variants import NAIVE, ONE, expect, timed_run, warm_runners, warm_up
from bench.servers import naive_server, our_server, wait_for_pool

_PRINTS = "10,000 prints"
_TEN_MB = 10_000_000
# code, and how many characters it must show
_CASES = {
    _PRINTS: ("for i in range(10_000): print(i)", 48_890),
    "one print of 10 MB": (f"print('x' * {_TEN_MB})", _TEN_MB + 1),
}

_UNTIL = "import time; end = time.monotonic() + {}\nwhile time.monotonic() < end: "
_QUIET = "/health, kernel sleeps"
_FLOODS = {
    _QUIET: "import time; time.sleep({})",
    "/health, kernel prints": _UNTIL + "print('x' * 80)",
    "/health, kernel prints and flushes": _UNTIL + "print('x' * 80, flush=True)",
}
# By default the gateway withholds what exceeds 1 MB a second, and so most of these 10 MB.
_NO_RATE_LIMIT = "--ZMQChannelsWebsocketConnection.limit_rate=False"

_HEALTH_LIMIT_MS = 20.0
_PAUSE = 0.02
_WARM_UP = 2


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting four servers and kernels")
    with warm_runners(_NO_RATE_LIMIT) as runners:
        for case, (code, length) in _CASES.items():
            say(case)
            measures = {
                name: timed_run(runner, code, partial(_check, length))
                for name, runner in runners.items()
            }
            warm_up(measures, _WARM_UP)
            samples = interleave(measures, plan.rounds(25, 3))
            findings.add(case, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    findings.expect_ratio(_PRINTS, NAIVE, 1.0)
    findings.notes.append(
        "The kernel gateway runs with its rate limit off: by default it withholds most of 10 MB."
    )
    _measure_health(plan, say, findings)
    return findings


def _measure_health(plan: Plan, say: Callable[[str], None], findings: Findings) -> None:
    seconds = 1 if plan.quick else 3
    rounds = min(plan.rounds(3, 1), 10)
    with our_server() as ours, naive_server() as naive:
        runners: dict[str, Runner] = {
            OURS: OurRunner(ours.client()),
            NAIVE: NaiveRunner(naive.client()),
        }
        probes = {OURS: ours.client(), NAIVE: naive.client()}
        for runner in runners.values():
            expect(ONE, runner.execute("1"))
        wait_for_pool(probes[OURS], 1)
        for case, template in _FLOODS.items():
            say(case)
            code = template.format(seconds)
            samples = {name: Samples() for name in runners}
            for _ in range(rounds):
                for name, runner in runners.items():
                    samples[name].values += _probe(runner, probes[name], code)
            findings.add(case, "ms", {name: got.scaled(1000) for name, got in samples.items()})
            if case != _QUIET:
                # Not the slowest of hundreds: it tells of other processes' turns on a core as often
                # as of ours.
                findings.expect_below(case, _HEALTH_LIMIT_MS, p95=True)
        for name, runner in runners.items():
            runner.close()
            probes[name].close()


def _check(length: int, shown: Shown) -> None:
    expect(length, len(shown.text))


def _probe(runner: Runner, probe: HttpClient, code: str) -> list[float]:
    """Latencies of /health, in seconds, while `code` runs."""
    flood = threading.Thread(target=runner.execute, args=(code,))
    values = []
    measure = timed(partial(probe.request, "GET", "/health"))
    flood.start()
    time.sleep(0.2)
    while flood.is_alive():
        values.append(measure())
        time.sleep(_PAUSE)
    flood.join()
    return values
