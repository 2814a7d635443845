"""What many sessions leave behind, counted before the first and after the last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from bench.clients import OurRunner
from bench.findings import Findings, Plan, Row, Target
from bench.servers import Server, our_server, wait_for_pool

_AT_ONCE = 4
_POOL = 4
_WARM_UP = 12
# The main one, two of ZeroMQ, and those of the loop's own pool, which start one by one as they are
# needed and stay.
_MOST_THREADS = 1 + 2 + min(32, (os.cpu_count() or 1) + 4)
_PATIENCE = 10.0


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    count = plan.rounds(100, 10)
    say("starting the server")
    with our_server(pool=_POOL) as server:
        _open_and_close(server, _WARM_UP)
        before = _settled(server, {})
        say(f"opening and closing {count} sessions")
        _open_and_close(server, count)
        after = _settled(server, before)
    for what, number in before.items():
        for moment, value in (("before", number), ("after", after[what])):
            findings.rows.append(Row(what, moment, "", 1, value, value, value, value, None))
    allowed = before | {"threads": max(before["threads"], _MOST_THREADS)}
    left = {what: after[what] - before[what] for what in before if after[what] > allowed[what]}
    findings.notes.append(
        f"Threads may grow to {_MOST_THREADS}: the event loop's own pool starts them as needed."
    )
    findings.targets.append(
        Target(
            f"{count} sessions opened and closed",
            "leave nothing",
            ", ".join(f"{number} {what}" for what, number in left.items()) or "nothing left",
            not left,
        )
    )
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


def _settled(server: Server, before: dict[str, int]) -> dict[str, int]:
    """Counts once the pool is full again; waits a while for more than `before` to go."""
    client = server.client()
    wait_for_pool(client, _POOL)
    client.close()
    deadline = time.monotonic() + _PATIENCE
    while True:
        time.sleep(0.5)
        counts = _count(server)
        if time.monotonic() > deadline or all(
            counts[what] <= number for what, number in before.items()
        ):
            return counts


def _count(server: Server) -> dict[str, int]:
    process = psutil.Process(server.pid)
    descendants = {child.pid for child in process.children(recursive=True)}
    # Those that lost their parent still name the server's directory in their command line.
    mark = str(server.home)
    strays = {
        other.pid
        for other in psutil.process_iter(["cmdline"])
        if any(mark in argument for argument in other.info["cmdline"] or ())
    }
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "processes": len(descendants | strays),
        "files": sum(1 for path in Path(server.home).rglob("*") if not path.is_dir()),
    }
