"""Files: what the service adds to reading a small one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.findings import OURS, Findings, Plan
from bench.scenarios.overhead import PLAIN, measure_overhead
from bench.scenarios.variants import expect
from bench.servers import our_server, plain_server

_SMALL = "read 1 KB"
_CONTENT = "0123456789abcdef" * 64


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    with our_server() as ours, plain_server() as plain:
        say(_SMALL)
        path = ours.home / "workspace" / "small"
        path.write_text(_CONTENT)
        clients = {OURS: ours.client(), PLAIN: plain.client()}
        routes = {OURS: f"/files/read?path={path}", PLAIN: f"/file?path={path}"}
        calls = {
            name: partial(client.request, "GET", routes[name]) for name, client in clients.items()
        }
        measure_overhead(findings, _SMALL, calls, _check_content, plan.rounds(500, 50))
        for client in clients.values():
            client.close()
    return findings


def _check_content(answer: dict[str, Any]) -> None:
    expect(_CONTENT, answer["content"])
