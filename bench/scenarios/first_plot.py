"""The first plot of a session that exists already, its imports included."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

from bench.clients import HttpClient, NaiveRunner, OurRunner, Runner
from bench.findings import OURS, Findings, Plan
from bench.samples import Measure, Peer, interleave, of_peer
from bench.scenarios.variants import NAIVE, PLOT, PLOTTED, expect, warm_up
from bench.servers import clean_environment, naive_server, our_server, temporary_home
from bench.stock import STOCK, StockKernel

_CASE = "import, plot of 1,000 points"
_TIMES_FASTER = 3.5
# What a new kernel still does by itself must not be measured.
_REST = 0.2


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting two servers")
    with contextlib.ExitStack() as stack:
        # Without a pool, none refills itself while somebody is measured.
        ours = stack.enter_context(our_server(pool=0)).client()
        naive = Peer(lambda: stack.enter_context(naive_server()).client())
        environment = clean_environment(stack.enter_context(temporary_home()))
        measures: dict[str, Measure] = {
            OURS: partial(_ours, ours),
            STOCK: of_peer(partial(_stock, environment)),
            NAIVE: of_peer(lambda: _naive(naive.get())),
        }
        warm_up(measures)
        say(_CASE)
        samples = interleave(measures, plan.rounds(12, 3))
    findings.add(_CASE, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    findings.expect_ratio(_CASE, STOCK, _TIMES_FASTER)
    return findings


def _ours(client: HttpClient) -> float:
    session = client.request("POST", "/sessions", {})["id"]
    elapsed = _plot(OurRunner(client, session))
    client.request("DELETE", f"/sessions/{session}")
    return elapsed


def _stock(environment: dict[str, str]) -> float:
    kernel = StockKernel(environment)
    try:
        return _plot(kernel)
    finally:
        kernel.close()


def _naive(client: HttpClient) -> float:
    session = client.request("POST", "/create", {})["session"]
    elapsed = _plot(NaiveRunner(client, session))
    client.request("POST", f"/delete/{session}", {})
    return elapsed


def _plot(runner: Runner) -> float:
    time.sleep(_REST)
    started = time.perf_counter()
    shown = runner.execute(PLOT)
    elapsed = time.perf_counter() - started
    expect(PLOTTED, shown)
    return elapsed
