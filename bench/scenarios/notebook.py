"""A notebook of 20 small cells, from nothing to its kernel's end."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from functools import partial

import nbformat
from nbclient import NotebookClient

from bench.clients import HttpClient, Shown, shown
from bench.findings import Findings, Plan
from bench.samples import interleave, timed
from bench.scenarios.variants import expect
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
_SHOWN = [
    cell
    for n in range(5)
    for cell in (
        Shown("", "", 0),
        Shown(f"{sum(range(n + 10))}\n", "", 0),
        Shown("", "", 0),
        Shown("", str((n + 9) * n), 0),
    )
]
_POOL = 2
_TIMES_FASTER = 8.0


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting two servers")
    with contextlib.ExitStack() as stack:
        pooled = stack.enter_context(our_server(pool=_POOL)).client()
        environment = clean_environment(stack.enter_context(temporary_home()))
        unpooled = stack.enter_context(our_server(pool=0)).client()
        check = partial(expect, _SHOWN)
        measures = {
            _UNPOOLED: timed(partial(_run_over_http, unpooled), check),
            _POOLED: timed(partial(_run_over_http, pooled), check),
            _NBCLIENT: timed(partial(_run_with_nbclient, environment), check),
        }
        for measure in measures.values():
            measure()
        say(_CASE)
        samples = interleave(
            measures, plan.rounds(10, 2), before_turn=lambda: wait_for_pool(pooled, _POOL)
        )
    scaled = {name: got.scaled(1000) for name, got in samples.items()}
    findings.add(_CASE, "ms", scaled, baseline=_UNPOOLED)
    findings.expect_ratio(_CASE, _NBCLIENT, _TIMES_FASTER, ours=_UNPOOLED)
    return findings


def _run_over_http(client: HttpClient) -> list[Shown]:
    session = client.request("POST", "/sessions", {})["id"]
    answers = []
    for code in _CELLS:
        content = {"code": code, "session_id": session}
        answer = client.request("POST", "/execute/rich", content)
        answers.append(shown(answer["outputs"]))
    client.request("DELETE", f"/sessions/{session}")
    return answers


def _run_with_nbclient(environment: dict[str, str]) -> list[Shown]:
    cells = [nbformat.v4.new_code_cell(code) for code in _CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, kernel_name="python3")
    client.execute(env=environment, stderr=subprocess.DEVNULL)
    return [shown(cell.outputs) for cell in notebook.cells]
