"""A new session, from the request to make it to the answer of its first cell."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.clients import GatewayRunner, HttpClient, NaiveRunner, OurRunner, Shown
from bench.findings import OURS, Findings, Plan, Target
from bench.samples import Measure, interleave
from bench.scenarios.variants import GATEWAY, NAIVE
from bench.servers import gateway_server, naive_server, our_server, wait_for_pool

_CASE = "create a session, run 1"
_POOLED = f"{OURS}, ready pool"
_UNPOOLED = f"{OURS}, no pool"
_POOL = 8
_LIMIT_MS = 15.0
_WANTED = Shown("", "1", 0)


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting four servers")
    with contextlib.ExitStack() as stack:
        pooled = stack.enter_context(our_server(pool=_POOL)).client()
        unpooled = stack.enter_context(our_server(pool=0)).client()
        naive = stack.enter_context(naive_server()).client()
        gateway = stack.enter_context(gateway_server())
        measures: dict[str, Measure] = {
            _POOLED: partial(_ours, pooled),
            _UNPOOLED: partial(_ours, unpooled),
            NAIVE: partial(_naive, naive),
            GATEWAY: partial(_gateway, gateway.port, gateway.client()),
        }
        for measure in measures.values():
            measure()
        say(_CASE)
        # The pool's own refilling must not slow whoever is measured next.
        samples = interleave(
            measures, plan.rounds(12, 3), before_turn=lambda: wait_for_pool(pooled, _POOL)
        )
    scaled = {name: got.scaled(1000) for name, got in samples.items()}
    findings.add(_CASE, "ms", scaled, baseline=_POOLED)
    median = scaled[_POOLED].median
    findings.targets.append(
        Target(
            f"{_CASE}: {_POOLED}",
            f"median under {_LIMIT_MS:g} ms",
            f"{median:.1f} ms",
            median < _LIMIT_MS,
        )
    )
    return findings


def _ours(client: HttpClient) -> float:
    started = time.perf_counter()
    session = client.request("POST", "/sessions", {})["id"]
    shown = OurRunner(client, session).execute("1")
    elapsed = time.perf_counter() - started
    client.request("DELETE", f"/sessions/{session}")
    return _checked(shown, elapsed)


def _naive(client: HttpClient) -> float:
    started = time.perf_counter()
    session = client.request("POST", "/create", {})["session"]
    shown = NaiveRunner(client, session).execute("1")
    elapsed = time.perf_counter() - started
    client.request("POST", f"/delete/{session}", {})
    return _checked(shown, elapsed)


def _gateway(port: int, client: HttpClient) -> float:
    started = time.perf_counter()
    kernel: dict[str, Any] = client.request("POST", "/api/kernels", {})
    runner = GatewayRunner(port, kernel["id"], quick_ack=False)
    shown = runner.execute("1")
    elapsed = time.perf_counter() - started
    runner.close()
    client.request("DELETE", f"/api/kernels/{kernel['id']}")
    return _checked(shown, elapsed)


def _checked(shown: Shown, elapsed: float) -> float:
    if shown != _WANTED:
        raise RuntimeError(f"the first cell showed {shown}")
    return elapsed
