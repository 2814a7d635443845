"""A run of two seconds against its cached result, and what the cache costs those who do not ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bench.clients import HttpClient
from bench.findings import OURS, Findings, Plan
from bench.samples import interleave, timed
from bench.scenarios.variants import expect
from bench.servers import our_server, wait_for_pool

_RUN = "a run of 2 s"
_LARGE = "an answer of 1 MiB"
_PLAIN = "1 on a warm kernel"
_CACHED = f"{OURS}, cached"
_USED = f"{OURS}, cache in use"
_LIMIT_MS = 5.0
# Noise between two processes; the cache itself is not asked.
_TIMES = 1.1
_ENTRIES = 64
_WARM_UP = 10

_SLOW_CODE = "import time\ntime.sleep(2)\n6 * 7"
_LARGE_CODE = "print('x' * 2**20)"
_ISOLATED = {"isolated": True}
_ASKING = {"isolated": True, "cache": True}


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting two servers")
    with our_server() as unused_server, our_server() as server:
        client, unused = server.client(), unused_server.client()
        rounds = plan.rounds(200, 20)

        say(_RUN)
        fresh = timed(partial(_execute, client, _SLOW_CODE, _ISOLATED), partial(_check, "42"))
        _execute(client, _SLOW_CODE, _ASKING)
        cached = timed(
            partial(_execute, client, _SLOW_CODE, _ASKING), partial(_check, "42", cached=True)
        )
        samples = interleave({OURS: fresh}, plan.rounds(5, 1))
        samples |= interleave({_CACHED: cached}, rounds)
        findings.add(_RUN, "ms", {name: got.scaled(1000) for name, got in samples.items()})

        say(_LARGE)
        _execute(client, _LARGE_CODE, _ASKING)
        measures = {
            OURS: timed(partial(_execute, client, _LARGE_CODE, _ISOLATED), _check_large),
            _CACHED: timed(partial(_execute, client, _LARGE_CODE, _ASKING), _check_large),
        }
        samples = interleave(measures, plan.rounds(20, 3))
        findings.add(_LARGE, "ms", {name: got.scaled(1000) for name, got in samples.items()})

        say(_PLAIN)
        for number in range(_ENTRIES):
            _execute(client, f"{number}", _ASKING)
        measures = {
            name: timed(partial(_execute, connection, "1", {}), partial(_check, "1"))
            for name, connection in ((OURS, unused), (_USED, client))
        }
        for measure in measures.values():
            for _ in range(_WARM_UP):
                measure()
        # The default sessions have taken kernels, which are replaced before anybody is measured.
        for connection in (unused, client):
            wait_for_pool(connection, 1)
        samples = interleave(measures, rounds, turn=5)
        findings.add(_PLAIN, "ms", {name: got.scaled(1000) for name, got in samples.items()})
        for connection in (unused, client):
            connection.close()
    findings.expect_below(_RUN, _LIMIT_MS, ours=_CACHED)
    findings.expect_at_most(_PLAIN, _USED, _TIMES, baseline=OURS)
    return findings


def _execute(client: HttpClient, code: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.request("POST", "/execute", {"code": code, **fields})
    return answer


def _check(result: str, answer: dict[str, Any], *, cached: bool | None = None) -> None:
    expect((result, cached), (answer.get("result"), answer.get("cached")))


def _check_large(answer: dict[str, Any]) -> None:
    expect(2**20 + 1, len(answer["stdout"]))
