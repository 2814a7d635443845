"""Terminals: how long a key takes to its echo, and how fast much output passes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from functools import partial

import orjson

from bench.clients import WebSocket
from bench.findings import OURS, Findings, Plan
from bench.samples import Measure, Samples, interleave, timed
from bench.scenarios.variants import expect
from bench.servers import Server, our_server

_PTY = "a PTY read by Python"
_NAMED = "kernelagent, named"
_BINARY = "kernelagent, binary"
_KEY = "a key and its echo"
_ADDED = "what the service adds to a key"

_ADDED_LIMIT_MS = 2.0
_ENOUGH = 0.5
_WARM_UP = 5
# As between the keys of somebody who types fast.
_PAUSE = 0.03
_MIB = 50
_BLOCK = 64 * 1024
_END = "END"


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    with our_server() as server:
        say(_KEY)
        _measure_keys(findings, plan, server)
        say("much output")
        _measure_output(findings, plan, server)
    return findings


def _measure_keys(findings: Findings, plan: Plan, server: Server) -> None:
    plain = _PlainTerminal(["cat"])
    lines = {
        OURS: _open(server, "/terminal"),
        _NAMED: _open_named(server, "cat", binary=False),
        _BINARY: _open(server, "/terminal?binary=1"),
    }
    for name in (OURS, _BINARY):
        # The terminal echoes, as that of the others; not bash, which thinks about each key.
        lines[name].send(_input("PS1=; echo re''ady; exec cat\n"))
        while b"ready" not in lines[name].receive():
            pass
    measures: dict[str, Measure] = {_PTY: plain.press}
    measures |= {name: partial(_press, line) for name, line in lines.items()}
    for _ in range(_WARM_UP):
        for measure in measures.values():
            measure()
    samples = interleave(measures, plan.rounds(200, 20), before_turn=partial(time.sleep, _PAUSE))
    findings.add(
        _KEY, "ms", {name: got.scaled(1000) for name, got in samples.items()}, baseline=_PTY
    )
    added = zip(samples[OURS].values, samples[_PTY].values, strict=True)
    difference = Samples([mine - theirs for mine, theirs in added])
    findings.add(_ADDED, "ms", {OURS: difference.scaled(1000)})
    findings.expect_below(_ADDED, _ADDED_LIMIT_MS)
    for line in lines.values():
        line.close()
    plain.close()


def _measure_output(findings: Findings, plan: Plan, server: Server) -> None:
    line = f"head -c {_MIB}M /dev/zero | base64; echo {_END}"
    # base64 breaks lines at 76 characters, and a terminal makes two of each line's end.
    size = (_MIB * 2**20 + 2) // 3 * 4
    size += -(-size // 76) * 2 + len(_END) + 2
    variants = {
        _PTY: timed(partial(_read_pty, line), partial(expect, size)),
        OURS: timed(partial(_read_socket, server, "/terminal", line)),
        _NAMED: timed(partial(_read_named, server, line, binary=False), partial(expect, size)),
        _BINARY: timed(partial(_read_named, server, line, binary=True), partial(expect, size)),
    }
    found = interleave(variants, plan.rounds(3, 1))
    case = f"{_MIB} MiB as base64"
    findings.add(case, "s", found, baseline=_PTY)
    findings.expect_at_most(case, _BINARY, 1 / _ENOUGH, baseline=_PTY)


class _PlainTerminal:
    """A program on a pseudo-terminal without anything in between."""

    def __init__(self, argv: list[str]) -> None:
        self._ours, theirs = os.openpty()
        self._process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def press(self) -> float:
        started = time.perf_counter()
        os.write(self._ours, b"x")
        expect(b"x", os.read(self._ours, 100))
        return time.perf_counter() - started

    def read_all(self) -> int:
        total = 0
        while True:
            try:
                total += len(os.read(self._ours, _BLOCK))
            except OSError:  # nobody has its other end any more
                return total

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


def _read_pty(line: str) -> int:
    terminal = _PlainTerminal(["bash", "-c", line])
    total = terminal.read_all()
    terminal.close()
    return total


def _open(server: Server, path: str) -> WebSocket:
    return WebSocket(server.port, path, token=server.token)


def _open_named(server: Server, line: str, *, binary: bool) -> WebSocket:
    client = server.client()
    made = client.request("POST", "/terminals", {"command": line})
    client.close()
    return _open(server, f"/terminals/{made['id']}?binary={int(binary)}")


def _input(text: str) -> bytes:
    return orjson.dumps({"type": "input", "data": text})


def _press(line: WebSocket) -> float:
    started = time.perf_counter()
    line.send(_input("x"))
    while b"x" not in line.receive():
        pass
    return time.perf_counter() - started


def _read_socket(server: Server, path: str, line: str) -> int:
    socket = _open(server, path)
    socket.send(_input(f"{line}; exit\n"))
    total = _read(socket)
    socket.close()
    return total


def _read_named(server: Server, line: str, *, binary: bool) -> int:
    socket = _open_named(server, line, binary=binary)
    total = _read(socket)
    socket.close()
    return total


def _read(socket: WebSocket) -> int:
    """Bytes of output, up to the end of the terminal."""
    total = 0
    while True:
        message = socket.receive()
        if not message.startswith(b'{"type":"'):
            total += len(message)
            continue
        content = orjson.loads(message)
        if content["type"] == "exit":
            return total
        if content["type"] == "skipped":
            raise RuntimeError("output was left out")
        total += len(content.get("data", ""))
