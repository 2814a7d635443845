"""Files: what the service adds to reading a small one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.findings import OURS, Findings, Plan
from bench.samples import Samples, interleave, timed
from bench.scenarios.variants import expect
from bench.servers import our_server, plain_server

_PLAIN = "plain Starlette route"
_SMALL = "read 1 KB"
_OVERHEAD = "what the service adds to reading 1 KB"

_OVERHEAD_LIMIT_MS = 1.0
_WARM_UP = 20
_CONTENT = "0123456789abcdef" * 64


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    with our_server() as ours, plain_server() as plain:
        say(_SMALL)
        path = ours.home / "workspace" / "small"
        path.write_text(_CONTENT)
        clients = {OURS: ours.client(), _PLAIN: plain.client()}
        routes = {OURS: f"/files/read?path={path}", _PLAIN: f"/file?path={path}"}
        measures = {
            name: timed(partial(client.request, "GET", routes[name]), _check_content)
            for name, client in clients.items()
        }
        for measure in measures.values():
            for _ in range(_WARM_UP):
                measure()
        samples = interleave(measures, plan.rounds(500, 50))
        findings.add(_SMALL, "ms", {name: got.scaled(1000) for name, got in samples.items()})
        added = zip(samples[OURS].values, samples[_PLAIN].values, strict=True)
        overhead = Samples([mine - theirs for mine, theirs in added])
        findings.add(_OVERHEAD, "ms", {OURS: overhead.scaled(1000)})
        findings.expect_below(_OVERHEAD, _OVERHEAD_LIMIT_MS)
        for client in clients.values():
            client.close()
    return findings


def _check_content(answer: dict[str, Any]) -> None:
    expect(_CONTENT, answer["content"])
