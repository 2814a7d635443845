"""What many sessions leave behind, counted before the first and after the last."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.clients import OurRunner
from bench.findings import Findings, Plan
from bench.leftovers import NOTE, at_rest, left_over
from bench.servers import Server, our_server

_AT_ONCE = 4
_POOL = 4
_WARM_UP = 12


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    count = plan.rounds(100, 10)
    say("starting the server")
    with our_server(pool=_POOL) as server:
        _open_and_close(server, _WARM_UP)
        before = at_rest(server, _POOL, {})
        say(f"opening and closing {count} sessions")
        _open_and_close(server, count)
        after = at_rest(server, _POOL, before)
    for what, number in before.items():
        findings.count(what, {"before": number, "after": after[what]})
    findings.expect_none(
        f"{count} sessions opened and closed", "leave nothing", left_over(server, before, after)
    )
    findings.notes.append(NOTE)
    return findings


def _open_and_close(server: Server, count: int) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(_one_session, [server] * count))


def _one_session(server: Server) -> None:
    client = server.client()
    session = client.request("POST", "/sessions", {})["id"]
    OurRunner(client, session).execute("print(1)")
    client.request("DELETE", f"/sessions/{session}")
    client.close()
