"""Memory as proportional set size: what is shared is divided among those who share it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from bench.clients import HttpClient, OurRunner, Runner
from bench.findings import OURS, Findings, Plan
from bench.processes import memory, private_memory
from bench.samples import Samples
from bench.scenarios.variants import GATEWAY, NAIVE, ONE, PLOT, expect
from bench.servers import (
    clean_environment,
    gateway_server,
    naive_server,
    our_server,
    server_facts,
    temporary_home,
)
from bench.stock import STOCK, StockKernel

_IMPORT = "import pandas, matplotlib.pyplot\n1"
_USE = f"""
import pandas as pd
pd.DataFrame({{"a": range(10)}}).describe()
{PLOT}
1
"""
_BARE = f"{STOCK}, nothing imported"
_FORK_SERVER = f"{OURS}, its fork server"
_TIMES_LESS = 5.0
_REST = 0.5


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    count = plan.rounds(10, 3)
    each = f"each of {count}"
    say("starting three servers")
    with contextlib.ExitStack() as stack:
        # Without a pool, so that there are as many of our kernels as of the others.
        ours = stack.enter_context(our_server(pool=0))
        naive = stack.enter_context(naive_server())
        gateway = stack.enter_context(gateway_server())
        environment = clean_environment(stack.enter_context(temporary_home()))
        client = ours.client()
        say(f"starting {count} kernels of each kind")
        sessions = [_Session(client)]
        stock = [_stock_kernel(stack, environment)]
        expect(ONE, stock[0].execute(_IMPORT))
        alone = {OURS: _all(memory, sessions), STOCK: _all(memory, stock)}
        sessions += [_Session(client) for _ in range(count - 1)]
        stock += [_stock_kernel(stack, environment) for _ in range(count - 1)]
        bare = _all(memory, stock[1:] or stock)
        for kernel in stock:
            expect(ONE, kernel.execute(_IMPORT))

        idle = f"{each}, imports ready"
        findings.add(
            idle,
            "MiB",
            {OURS: _all(memory, sessions), STOCK: _all(memory, stock), _BARE: bare},
        )
        findings.expect_ratio(idle, STOCK, _TIMES_LESS, how="less")
        findings.add(
            f"{each}, shared with none",
            "MiB",
            {OURS: _all(private_memory, sessions), STOCK: _all(private_memory, stock)},
        )
        findings.add("a lone one, imports ready", "MiB", alone)

        say("a table and a plot in each kernel")
        runners: list[Runner] = [*(session.runner for session in sessions), *stock]
        for runner in runners:
            expect("1", runner.execute(_USE).result)
        used = {OURS: _all(memory, sessions), STOCK: _all(memory, stock)}
        findings.add(f"{each}, used", "MiB", used)
        forking = server_facts(ours)["fork_servers"]["python"]["pid"]
        servers = {
            OURS: Samples([memory(ours.pid)]),
            _FORK_SERVER: Samples([memory(forking)]),
            NAIVE: Samples([memory(naive.pid)]),
            GATEWAY: Samples([memory(gateway.pid)]),
        }
        findings.add("server", "MiB", servers)
        findings.add(
            f"server and {count} used kernels",
            "MiB",
            {
                OURS: _sum(servers[OURS], servers[_FORK_SERVER], used[OURS]),
                NAIVE: _sum(servers[NAIVE], used[STOCK]),
            },
        )

        say("a branch of each session")
        branches = [session.branch() for session in sessions]
        for branch in branches:
            expect(ONE, branch.runner.execute("1"))
        findings.add(
            f"{each}, branched",
            "MiB",
            {
                OURS: _all(memory, branches),
                f"{OURS}, its parent": _all(memory, sessions),
            },
        )
    findings.notes += [
        "Imports: pandas and matplotlib, which ours have without a word. Used: a table and a plot. "
        "Branched: each used one, and 1 run in the branch.",
        "What kernels share counts in part for each, so that it is less the more there are. The "
        "fork server's own part is in none of them: it is told among the servers, and in the sum.",
    ]
    return findings


class _Session:
    """One of ours."""

    def __init__(self, client: HttpClient, path: str = "/sessions") -> None:
        made = client.request("POST", path, {})
        self._client = client
        self._id = made["id"]
        self.pid: int = made["pid"]
        self.runner = OurRunner(client, self._id)

    def branch(self) -> _Session:
        return _Session(self._client, f"/sessions/{self._id}/branch")


def _stock_kernel(stack: contextlib.ExitStack, environment: dict[str, str]) -> StockKernel:
    kernel = StockKernel(environment)
    stack.callback(kernel.close)
    return kernel


def _all(
    measure: Callable[[int], float], kernels: Sequence[_Session] | Sequence[StockKernel]
) -> Samples:
    time.sleep(_REST)
    return Samples([measure(kernel.pid) for kernel in kernels])


def _sum(*parts: Samples) -> Samples:
    return Samples([sum(sum(part.values) for part in parts)])
