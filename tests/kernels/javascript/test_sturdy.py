"""JavaScript: tampering, large cells, and what is left of a host."""

# ruff: noqa: E501 - the code of cells
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.kernels.host.harness import Host
from tests.waiting import PATIENCE


@pytest.mark.parametrize(
    "code",
    [
        "console = null",
        "process.stdout.write = () => true",
        "JSON = {}; Promise = null; Map = Set = WeakMap = Symbol = undefined",
        "JSON.stringify = JSON.parse = () => { throw 1 }",
        "Array.prototype.push = Array.prototype.map = Array.prototype[Symbol.iterator] = () => { throw 1 }",
        "Object.prototype.x = 1; Object.prototype.constructor = null",
        "String.prototype.split = String.prototype.replace = RegExp.prototype.exec = () => { throw 1 }",
        "Object.keys = Object.entries = Object.defineProperty = () => { throw 1 }",
        "Function.prototype.bind = () => { throw 1 }",
        "Promise.prototype.then = () => { throw 1 }",
        "delete globalThis.process",
        "delete globalThis.require; delete globalThis.display",
        "Error.prepareStackTrace = () => { throw 1 }",
        "process.removeAllListeners()",
        "require('fs').writeSync = require('fs').readSync = null",
        "Buffer.from = Buffer.prototype.toString = null; Buffer.byteLength = null",
        "setImmediate = setTimeout = null; process.nextTick = null",
        "require('util').inspect.defaultOptions.depth = 0",
        "Object.freeze(globalThis)",
        "process.env = {}",
    ],
)
def test_nothing_that_user_code_replaces_breaks_the_host(
    host: Host, code: str, tmp_path: Path
) -> None:
    host.run(code)
    assert host.run("1 + 1", env={"A": "b"}, cwd=str(tmp_path)).text == "2"
    assert host.run("throw new Error('seen')").failure.value == "seen"
    assert host.run("let = ;").failure.name == "SyntaxError"
    assert host.run("for (;;);", interrupt_when=lambda _: True).failure.name == "KeyboardInterrupt"
    assert host.driver.is_complete("f(") == "incomplete"
    assert "parseInt" in host.driver.complete("parseI", 6)[0]
    host.driver.variables(10)
    # Node's own loader may need what was replaced; the host goes on.
    host.run("import { sep } from 'path'; sep")
    assert host.run("2 + 2").text == "4"


def test_a_large_cell_meets_the_output_of_an_earlier_one(host: Host) -> None:
    # Neither side reads while it writes more than a pipe holds.
    assert host.run("const beat = setInterval(() => console.log('x'.repeat(200000)), 1); 1").ok
    for _ in range(5):
        assert host.run("const many = '" + "y" * 400_000 + "'; many.length").text == "400000"
    assert host.run("clearInterval(beat)").ok


def test_large_cells_and_values(host: Host) -> None:
    assert host.run("const long = '" + "é" * 1_000_000 + "'; long.length").text == "1000000"
    assert host.run("[" + "1," * 300_000 + "].length").text == "300000"
    outcome = host.run("const big = Array.from({ length: 1e6 }, (_, i) => i); big")
    assert outcome.result is not None
    assert "999900 more items" in str(outcome.text)
    assert "application/json" not in outcome.result
    failure = host.run("x" * 100_000 + " = = 1").failure
    assert all(len(line) < 400 for line in failure.traceback)


def test_running_out_of_memory_ends_the_host_by_a_signal(tmp_path: Path) -> None:
    os.environ["NODE_OPTIONS"] = "--max-old-space-size=40"
    try:
        host = Host("javascript")
    finally:
        del os.environ["NODE_OPTIONS"]
    try:
        outcome = host.run("const a = []; for (;;) a.push(new Array(1e5).fill(a.length + 0.5))")
        assert outcome.signal is not None or (outcome.ended and outcome.ended.fresh)
    finally:
        host.close()


def test_nothing_is_left_when_the_driver_closes(host: Host) -> None:
    host.run("require('child_process').spawn('sleep', ['77'], { detached: true }); 1")
    below = psutil.Process(host.driver.pid).children(recursive=True)
    assert len(below) == 1
    host.close()
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    assert not alive


def test_the_host_ends_with_the_process_that_drives_it(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path[:] = {sys.path!r}\n"
        "from tests.kernels.host.harness import Host\n"
        "host = Host('javascript'); print(host.driver.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        process = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
        driver.wait()
        _, alive = psutil.wait_procs([process], timeout=PATIENCE)
        assert not alive


def test_an_idle_host_does_not_wake_up(host: Host) -> None:
    assert host.run("1").ok

    def switches() -> int:
        return psutil.Process(host.driver.pid).num_ctx_switches().voluntary

    before = switches()
    time.sleep(0.5)
    assert switches() - before <= 2
