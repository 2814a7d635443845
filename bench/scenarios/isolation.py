"""What the layers of isolation cost: starts of kernels and commands with them and without."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

from bench.clients import HttpClient, OurRunner
from bench.findings import OURS, Findings, Plan
from bench.samples import Measure, Samples, interleave, timed
from bench.scenarios.variants import ONE, expect
from bench.servers import our_server

_OPEN = "without isolation"
_FORKED = "a forked kernel, from the request to its first answer"
_PLAIN = "a kernel started by itself, from the request to its first answer"
_COMMAND = "run `true`"
_ADDED = "what isolation adds to `true`"

_TIMES = 1.2
_ADDED_LIMIT_MS = 0.5


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    variants = {OURS: "auto", _OPEN: "off"}
    for case, fork, rounds in (
        (_FORKED, "true", plan.rounds(40, 5)),
        (_PLAIN, "false", plan.rounds(15, 3)),
    ):
        say(case)
        with contextlib.ExitStack() as stack:
            clients = {
                name: stack.enter_context(
                    our_server(pool=0, KERNELAGENT_ISOLATION=mode, KERNELAGENT_FORK_SERVER=fork)
                ).client()
                for name, mode in variants.items()
            }
            measures: dict[str, Measure] = {
                name: partial(_start, client) for name, client in clients.items()
            }
            for measure in measures.values():
                measure()
            samples = interleave(measures, rounds)
            findings.add(case, "ms", {name: got.scaled(1000) for name, got in samples.items()})
            findings.expect_at_most(case, OURS, _TIMES, baseline=_OPEN)
            if fork == "true":
                _measure_commands(clients, plan, findings)
    return findings


def _measure_commands(clients: dict[str, HttpClient], plan: Plan, findings: Findings) -> None:
    body = {"command": "true", "args": []}
    measures = {
        name: timed(
            partial(client.request, "POST", "/commands/run", body),
            lambda answer: expect(0, answer["exit_code"]),
        )
        for name, client in clients.items()
    }
    for measure in measures.values():
        for _ in range(20):
            measure()
    samples = interleave(measures, plan.rounds(300, 20))
    findings.add(_COMMAND, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    pairs = zip(samples[OURS].values, samples[_OPEN].values, strict=True)
    added = Samples([with_it - without for with_it, without in pairs])
    findings.add(_ADDED, "ms", {OURS: added.scaled(1000)})
    findings.expect_below(_ADDED, _ADDED_LIMIT_MS)


def _start(client: HttpClient) -> float:
    started = time.perf_counter()
    session = client.request("POST", "/sessions", {})["id"]
    shown = OurRunner(client, session).execute("1")
    elapsed = time.perf_counter() - started
    client.request("DELETE", f"/sessions/{session}")
    expect(ONE, shown)
    return elapsed
