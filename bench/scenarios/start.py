"""A new session, from the request to make it to the answer of its first cell."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.clients import GatewayRunner, HttpClient, NaiveRunner, OurRunner
from bench.findings import OURS, Findings, Plan
from bench.samples import Measure, Peer, interleave, of_peer
from bench.scenarios.variants import GATEWAY, GATEWAY_QUICK, NAIVE, ONE, expect, warm_up
from bench.servers import gateway_server, naive_server, our_server, wait_for_pool

_CASE = "create a session, run 1"
_POOLED = f"{OURS}, ready pool"
_UNPOOLED = f"{OURS}, no pool"
_POOL = 8
_LIMIT_MS = 15.0
_TIMES_FASTER = 10.0


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting four servers")
    with contextlib.ExitStack() as stack:
        pooled = stack.enter_context(our_server(pool=_POOL)).client()
        unpooled = stack.enter_context(our_server(pool=0)).client()
        naive = Peer(lambda: stack.enter_context(naive_server()).client())
        gateway = Peer(lambda: stack.enter_context(gateway_server()))
        control = Peer(lambda: gateway.get().client())

        def of_gateway(*, quick_ack: bool) -> float:
            return _gateway(gateway.get().port, control.get(), quick_ack=quick_ack)

        measures: dict[str, Measure] = {
            _UNPOOLED: partial(_ours, unpooled),
            _POOLED: partial(_ours, pooled),
            NAIVE: of_peer(lambda: _naive(naive.get())),
            GATEWAY: of_peer(partial(of_gateway, quick_ack=False)),
            GATEWAY_QUICK: of_peer(partial(of_gateway, quick_ack=True)),
        }
        warm_up(measures)
        say(_CASE)
        # The pool's own refilling must not slow whoever is measured next.
        samples = interleave(
            measures, plan.rounds(12, 3), before_turn=lambda: wait_for_pool(pooled, _POOL)
        )
    scaled = {name: got.scaled(1000) for name, got in samples.items()}
    findings.add(_CASE, "ms", scaled, baseline=_UNPOOLED)
    findings.expect_ratio(_CASE, GATEWAY, _TIMES_FASTER, ours=_UNPOOLED)
    findings.expect_ratio(_CASE, GATEWAY_QUICK, _TIMES_FASTER, ours=_UNPOOLED)
    findings.expect_below(_CASE, _LIMIT_MS, ours=_POOLED)
    return findings


def _ours(client: HttpClient) -> float:
    started = time.perf_counter()
    session = client.request("POST", "/sessions", {})["id"]
    shown = OurRunner(client, session).execute("1")
    elapsed = time.perf_counter() - started
    client.request("DELETE", f"/sessions/{session}")
    expect(ONE, shown)
    return elapsed


def _naive(client: HttpClient) -> float:
    started = time.perf_counter()
    session = client.request("POST", "/create", {})["session"]
    shown = NaiveRunner(client, session).execute("1")
    elapsed = time.perf_counter() - started
    client.request("POST", f"/delete/{session}", {})
    expect(ONE, shown)
    return elapsed


def _gateway(port: int, client: HttpClient, *, quick_ack: bool) -> float:
    started = time.perf_counter()
    kernel: dict[str, Any] = client.request("POST", "/api/kernels", {})
    runner = GatewayRunner(port, kernel["id"], quick_ack=quick_ack)
    shown = runner.execute("1")
    elapsed = time.perf_counter() - started
    runner.close()
    client.request("DELETE", f"/api/kernels/{kernel['id']}")
    expect(ONE, shown)
    return elapsed
