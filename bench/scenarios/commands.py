"""Commands: what the service adds to a small one, and how fast much output passes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.clients import HttpClient
from bench.findings import OURS, Findings, Plan
from bench.samples import interleave, timed
from bench.scenarios.overhead import PLAIN, measure_overhead
from bench.scenarios.variants import expect
from bench.servers import our_server, plain_server

_PIPE = "a pipe read by Python"
_STREAM = "kernelagent, frames"
_NDJSON = "kernelagent, NDJSON"
_SMALL = "run `true`"
_ENOUGH = 0.5
_FRAMES = "application/vnd.kernelagent.frames"
_BLOCK = 64 * 1024


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    with our_server() as ours, plain_server() as plain:
        say(_SMALL)
        clients = {OURS: ours.client(), PLAIN: plain.client()}
        paths = {OURS: "/commands/run", PLAIN: "/command"}
        body = {"command": "true", "args": []}
        calls = {
            name: partial(client.request, "POST", paths[name], body)
            for name, client in clients.items()
        }
        measure_overhead(findings, _SMALL, calls, _check_code, plan.rounds(200, 20))
        for client in clients.values():
            client.close()
        size = 2**28 if plan.quick else 2**30
        much = f"{size >> 20} MiB of output"
        say(much)
        line = f"yes | head -c {size}"
        variants = {
            _PIPE: timed(partial(_read_pipe, line), partial(expect, size)),
            OURS: timed(partial(_run, ours.client, line), partial(expect, size)),
            _STREAM: timed(partial(_stream, ours.client, line, _FRAMES)),
            _NDJSON: timed(partial(_stream, ours.client, line, "application/x-ndjson")),
        }
        found = interleave(variants, plan.rounds(3, 1))
        findings.add(much, "s", found, baseline=_PIPE)
        findings.expect_at_most(much, _STREAM, 1 / _ENOUGH, baseline=_PIPE)
    return findings


def _check_code(answer: dict[str, Any]) -> None:
    expect(0, answer["exit_code"])


def _read_pipe(line: str) -> int:
    process = subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE)
    total = 0
    assert process.stdout is not None
    while data := process.stdout.read(_BLOCK):
        total += len(data)
    process.wait()
    return total


def _run(connect: Callable[[], HttpClient], line: str) -> int:
    client = connect()
    answer = client.request("POST", "/commands/run", {"command": line, "timeout": 300})
    client.close()
    return int(answer["truncation"]["stdout_bytes"])


def _stream(connect: Callable[[], HttpClient], line: str, accept: str) -> int:
    client = connect()
    wanted = {"command": line, "timeout": 300}
    client.send("POST", "/commands/run", wanted, accept=accept)
    return client.receive_stream()
