"""The languages beside Python: their first result, warm runs, floods, memory; Go's compiler."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import KernelManager

from bench.clients import HttpClient, OurRunner, Shown
from bench.findings import Findings, Plan
from bench.processes import memory
from bench.samples import Measure, interleave, timed
from bench.scenarios.variants import expect
from bench.servers import our_server
from kernelagent.jupyter.requirements import find_command

_FIRST = "create a session without any pool, first result"
_WARM_VALUE = "1+1 on a warm kernel"
_WARM_TEXT = "a line of text on a warm kernel"
_LINES = "100,000 lines from Bash"
_GO = "hello world in Go, warm"
_PEER = "bash_kernel"
_GO_RUN = "go run"

_VALUES = {"python": "1+1", "javascript": "1+1", "typescript": "1+1"}
_TEXTS = {
    "python": "print('hello')",
    "javascript": "console.log('hello')",
    "bash": "echo hello",
}
_HELLO = Shown("hello\n", "", 0)
_FLOOD = "seq 1 100000"
_FLOOD_LENGTH = sum(len(f"{number}\n") for number in range(1, 100_001))
_PROGRAM = 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("hello")\n}\n'
_GO_LIMIT_MS = 1000.0
_PROCESS_TIMEOUT = 120


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say("starting a server")
    with our_server(pool=0) as server:
        client = server.client()
        _measure_first(plan, say, findings, client)
        _measure_warm(plan, say, findings, client)
        _measure_lines(plan, say, findings, client)
        _measure_go(plan, say, findings, client)
        _measure_memory(say, findings, client)
        client.close()
    return findings


def _measure_first(
    plan: Plan, say: Callable[[str], None], findings: Findings, client: HttpClient
) -> None:
    say(_FIRST)
    measures: dict[str, Measure] = {
        language: partial(_first, client, language, code) for language, code in _TEXTS.items()
    }
    for measure in measures.values():
        measure()
    samples = interleave(measures, plan.rounds(15, 3))
    scaled = {name: got.scaled(1000) for name, got in samples.items()}
    findings.add(_FIRST, "ms", scaled, baseline="python")
    findings.expect_below(_FIRST, 150.0, ours="javascript")
    findings.expect_below(_FIRST, 100.0, ours="bash")


def _first(client: HttpClient, language: str, code: str) -> float:
    started = time.perf_counter()
    session = client.request("POST", "/sessions", {"language": language})["id"]
    shown = OurRunner(client, session).execute(code)
    elapsed = time.perf_counter() - started
    client.request("DELETE", f"/sessions/{session}")
    expect(_HELLO, shown)
    return elapsed


def _measure_warm(
    plan: Plan, say: Callable[[str], None], findings: Findings, client: HttpClient
) -> None:
    for case, codes, wanted in (
        (_WARM_VALUE, _VALUES, Shown("", "2", 0)),
        (_WARM_TEXT, _TEXTS, _HELLO),
    ):
        say(case)
        with contextlib.ExitStack() as stack:
            measures = {
                language: timed(
                    partial(stack.enter_context(_session(client, language)).execute, code),
                    partial(expect, wanted),
                )
                for language, code in codes.items()
            }
            for measure in measures.values():
                for _ in range(10):
                    measure()
            samples = interleave(measures, plan.rounds(100, 10), turn=5)
        scaled = {name: got.scaled(1000) for name, got in samples.items()}
        findings.add(case, "ms", scaled, baseline="python")
    findings.expect_at_most(_WARM_VALUE, "javascript", 1.5, baseline="python")
    findings.expect_at_most(_WARM_TEXT, "bash", 1.5, baseline="python")


def _measure_lines(
    plan: Plan, say: Callable[[str], None], findings: Findings, client: HttpClient
) -> None:
    say(_LINES)
    seen: list[int] = []
    with _session(client, "bash") as runner, _peer_kernel() as peer:
        measures = {
            "kernelagent": timed(partial(runner.execute, _FLOOD), _expect_flood),
            _PEER: timed(partial(peer, _FLOOD), lambda shown: seen.append(len(shown.text))),
        }
        measures["kernelagent"]()
        samples = interleave(measures, plan.rounds(2, 1))
    findings.add(_LINES, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    findings.expect_ratio(_LINES, _PEER, 50.0)
    findings.notes.append(
        f"{_PEER} sends a message for each line and loses some: {min(seen)} of {_FLOOD_LENGTH} "
        "characters arrived."
    )


def _expect_flood(shown: Shown) -> None:
    if len(shown.text) != _FLOOD_LENGTH:
        raise AssertionError(f"{len(shown.text)} characters instead of {_FLOOD_LENGTH}")


@contextlib.contextmanager
def _peer_kernel() -> Iterator[Callable[[str], Shown]]:
    """bash_kernel without any server, driven by jupyter_client."""
    manager = KernelManager()
    specification: Any = manager.kernel_spec
    # Its own kernelspec need not be installed.
    specification.argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client: Any = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=_PROCESS_TIMEOUT)

        def execute(code: str) -> Shown:
            pieces: list[str] = []

            def take(message: dict[str, Any]) -> None:
                if message["msg_type"] == "stream":
                    pieces.append(message["content"]["text"])

            client.execute_interactive(code, output_hook=take, timeout=_PROCESS_TIMEOUT)
            return Shown("".join(pieces), "", 0)

        yield execute
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _measure_go(
    plan: Plan, say: Callable[[str], None], findings: Findings, client: HttpClient
) -> None:
    say(_GO)
    go = find_command("go")
    if go is None:
        findings.notes.append("Go is not installed, so it was not measured.")
        return
    with _session(client, "go") as runner, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hello.go"
        path.write_text(_PROGRAM)
        numbers = iter(range(10**6))

        def compiled() -> Shown:
            # Another program each time: an identical one would not be compiled again.
            return runner.execute(f"{_PROGRAM}\n// {next(numbers)}\nvar _ = {next(numbers)}\n")

        measures = {
            "kernelagent": timed(compiled, partial(expect, _HELLO)),
            "kernelagent, the same program again": timed(
                partial(runner.execute, _PROGRAM), partial(expect, _HELLO)
            ),
            _GO_RUN: timed(partial(_go_run, go, path), partial(expect, _HELLO)),
        }
        for measure in measures.values():
            for _ in range(2):
                measure()
        samples = interleave(measures, plan.rounds(10, 2))
    findings.add(_GO, "ms", {name: got.scaled(1000) for name, got in samples.items()})
    findings.expect_ratio(_GO, _GO_RUN, 1.0, ours="kernelagent, the same program again")
    findings.expect_below(_GO, _GO_LIMIT_MS)


def _go_run(go: str, path: Path) -> Shown:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    said = subprocess.run(
        [go, "run", path.name],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_PROCESS_TIMEOUT,
        check=True,
    )
    return Shown(said.stdout, "", 0)


def _measure_memory(say: Callable[[str], None], findings: Findings, client: HttpClient) -> None:
    say("memory of idle kernels")
    for language in ("python", "javascript", "bash", "go"):
        sessions = [client.request("POST", "/sessions", {"language": language}) for _ in range(3)]
        used = [_memory_of(client, session["id"]) for session in sessions]
        for session in sessions:
            client.request("DELETE", f"/sessions/{session['id']}")
        findings.count(
            f"MiB of an idle {language} kernel and its host, three of them",
            {"PSS": sum(used) / len(used)},
        )


def _memory_of(client: HttpClient, session: str) -> float:
    kernel = psutil.Process(client.request("GET", f"/sessions/{session}")["pid"])
    return sum(memory(process.pid) for process in (kernel, *kernel.children(recursive=True)))


@contextlib.contextmanager
def _session(client: HttpClient, language: str) -> Iterator[OurRunner]:
    session = client.request("POST", "/sessions", {"language": language})["id"]
    try:
        yield OurRunner(client, session)
    finally:
        client.request("DELETE", f"/sessions/{session}")
