"""A notebook of 20 small cells, from nothing to its kernel's end."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from functools import partial

import nbformat
from nbclient import NotebookClient

from bench.clients import HttpClient
from bench.findings import Findings, Plan
from bench.samples import interleave, timed
from bench.servers import clean_environment, our_server, temporary_home, wait_for_pool

_CASE = "start, 20 cells, stop"
_POOLED = "kernelagent, ready pool"
_UNPOOLED = "kernelagent, no pool"
_NBCLIENT = "nbclient"

_CELLS = [
    cell
    for n in range(5)
    for cell in (
        f"x{n} = list(range({n + 10}))",
        f"print(sum(x{n}))",
        f"def f{n}(v):\n    return [i * {n} for i in v]",
        f"f{n}(x{n})[-1]",
    )
]
_POOL = 2


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting two servers")
    with contextlib.ExitStack() as stack:
        pooled = stack.enter_context(our_server(pool=_POOL)).client()
        environment = clean_environment(stack.enter_context(temporary_home()))
        unpooled = stack.enter_context(our_server(pool=0)).client()
        measures = {
            _POOLED: timed(partial(_run_over_http, pooled)),
            _UNPOOLED: timed(partial(_run_over_http, unpooled)),
            _NBCLIENT: timed(partial(_run_with_nbclient, environment)),
        }
        for measure in measures.values():
            measure()
        say(_CASE)
        samples = interleave(
            measures, plan.rounds(8, 2), before_turn=lambda: wait_for_pool(pooled, _POOL)
        )
    scaled = {name: got.scaled(1000) for name, got in samples.items()}
    findings.add(_CASE, "ms", scaled, baseline=_POOLED)
    return findings


def _run_over_http(client: HttpClient) -> None:
    session = client.request("POST", "/sessions", {})["id"]
    for code in _CELLS:
        content = {"code": code, "session_id": session}
        answer = client.request("POST", "/execute/rich", content)
        if not answer["success"]:
            raise RuntimeError(f"a cell failed: {answer['stderr']}")
    client.request("DELETE", f"/sessions/{session}")


def _run_with_nbclient(environment: dict[str, str]) -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in _CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, kernel_name="python3")
    client.execute(env=environment, stderr=subprocess.DEVNULL)
