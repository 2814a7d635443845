"""Jobs: how soon one is taken, how soon it is done, and what 200 at once do to the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.clients import HttpClient
from bench.findings import OURS, Findings, Plan
from bench.samples import Samples, interleave, timed
from bench.scenarios.variants import WrongAnswer, expect
from bench.servers import our_server, wait_for_pool

_TAKEN = "POST /execute/background, ready pool"
_DONE = "the same to the end of its log"
_ISOLATED = "POST /execute, isolated"
_BURST = "/health while 200 jobs wait and run"
_QUIET = "/health, nothing runs"

_TAKEN_LIMIT_MS = 10.0
_LAG_LIMIT_MS = 50.0
_JOBS = 200
_PAUSE = 0.005


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    with our_server(pool=2) as server:
        client, probe = server.client(), server.client()
        say(_TAKEN)
        taken, done = Samples(), Samples()
        for _ in range(plan.rounds(50, 5)):
            wait_for_pool(client, 2)
            start = time.perf_counter()
            job = client.request("POST", "/execute/background", {"code": "1"})
            taken.values.append(time.perf_counter() - start)
            _follow(client, job["process_id"])
            done.values.append(time.perf_counter() - start)
        isolated = {"code": "1", "isolated": True}
        measure = timed(partial(client.request, "POST", "/execute", isolated))
        plain = interleave({_ISOLATED: measure}, plan.rounds(50, 5), before_turn=_ready(client))
        findings.add(_TAKEN, "ms", {OURS: taken.scaled(1000)})
        done_rows = {OURS: done.scaled(1000), _ISOLATED: plain[_ISOLATED].scaled(1000)}
        findings.add(_DONE, "ms", done_rows)
        findings.expect_below(_TAKEN, _TAKEN_LIMIT_MS)
        say(_BURST)
        quiet = Samples([_probe(probe) for _ in range(plan.rounds(200, 20))])
        findings.add(_QUIET, "ms", {OURS: quiet.scaled(1000)})
        lag, seconds = _burst(client, probe)
        findings.add(_BURST, "ms", {OURS: lag.scaled(1000)})
        findings.expect_below(_BURST, _LAG_LIMIT_MS, p95=True)
        findings.count(f"{_JOBS} jobs, all done after (s)", {OURS: round(seconds, 2)})
        client.close()
        probe.close()
    return findings


def _ready(client: HttpClient) -> Callable[[], None]:
    return lambda: wait_for_pool(client, 2)


def _follow(client: HttpClient, job_id: str) -> None:
    """Wait for the end of a job, as its log tells it."""
    while True:
        page = client.request("GET", f"/jobs/{job_id}/logs")
        if page["complete"]:
            expect("completed", client.request("GET", f"/jobs/{job_id}")["status"])
            return


def _probe(client: HttpClient) -> float:
    start = time.perf_counter()
    client.request("GET", "/health")
    return time.perf_counter() - start


def _burst(client: HttpClient, probe: HttpClient) -> tuple[Samples, float]:
    """Latencies of /health, in seconds, from the first job to the end of the last one."""
    lag = Samples()
    began = time.perf_counter()
    jobs = [
        client.request("POST", "/execute/background", {"code": f"print({number})"})["process_id"]
        for number in range(_JOBS)
    ]
    while True:
        lag.values.append(_probe(probe))
        waiting = _waiting(probe)
        if not waiting:
            break
        time.sleep(_PAUSE)
    seconds = time.perf_counter() - began
    _check_order(client.request("GET", "/execute/processes")["processes"], jobs)
    return lag, seconds


def _waiting(client: HttpClient) -> int:
    facts = client.request("GET", "/health")["jobs"]["code"]
    return int(facts["running"]) + int(facts["queued"])


def _check_order(processes: list[dict[str, Any]], jobs: list[str]) -> None:
    """All are done, each correctly, and have begun in the order in which they were taken."""
    mine = {item["process_id"]: item for item in processes if item["process_id"] in jobs}
    for number, job in enumerate(jobs):
        expect((f"{number}\n", "completed"), (mine[job]["stdout"], mine[job]["status"]))
    begun = [mine[job]["start_time"] for job in jobs]
    if begun != sorted(begun):
        raise WrongAnswer("jobs have not begun in the order in which they were taken")
