"""Memory as proportional set size: what is shared is divided among those who share it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from bench.clients import NaiveRunner, OurRunner
from bench.findings import OURS, Findings, Plan
from bench.samples import Samples
from bench.scenarios.variants import GATEWAY, NAIVE, PLOT
from bench.servers import gateway_server, naive_server, our_server

_STOCK = "stock ipykernel"
_USE = f"""
import pandas as pd
pd.DataFrame({{"a": range(10)}}).describe()
{PLOT}
"""


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    count = plan.rounds(3, 2)
    say(f"starting three servers and {count} kernels of each kind")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_server())
        naive = stack.enter_context(naive_server())
        gateway = stack.enter_context(gateway_server())
        our_client, naive_client = ours.client(), naive.client()
        sessions = [our_client.request("POST", "/sessions", {}) for _ in range(count)]
        created = [naive_client.request("POST", "/create", {}) for _ in range(count)]
        our_kernels = [session["pid"] for session in sessions]
        stock_kernels = [session["pid"] for session in created]
        idle = {OURS: _pss(our_kernels), _STOCK: _pss(stock_kernels)}
        say("plotting in each kernel")
        for session in sessions:
            OurRunner(our_client, session["id"]).execute(_USE)
        for session in created:
            NaiveRunner(naive_client, session["session"]).execute(_USE)
        findings.add("kernel, unused", "MiB", idle)
        findings.add(
            "kernel, after pandas and a plot",
            "MiB",
            {OURS: _pss(our_kernels), _STOCK: _pss(stock_kernels)},
        )
        servers = {OURS: ours.pid, NAIVE: naive.pid, GATEWAY: gateway.pid}
        findings.add("server", "MiB", {name: _pss([pid]) for name, pid in servers.items()})
    findings.notes.append(
        "Pages shared with the other kernels count in part, so a lone kernel takes more."
    )
    return findings


def _pss(pids: list[int]) -> Samples:
    return Samples([_read_pss(pid) / 1024 for pid in pids])


def _read_pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"no memory figures for process {pid}")
