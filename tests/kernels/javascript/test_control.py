"""JavaScript: interrupts, input, tampering, and what the session tells of itself."""

# ruff: noqa: E501 - the code of cells
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kernels.host.harness import Host, Outcome


def interrupted(host: Host, code: str) -> Outcome:
    """Run `code`, which prints `go` before it hangs, and interrupt it then."""
    sent: list[float] = []

    def ready(outcome: Outcome) -> bool:
        if "go" in outcome.stdout and not sent:
            sent.append(time.monotonic())
            return True
        return False

    outcome = host.run(code, interrupt_when=ready)
    assert outcome.failure.name == "KeyboardInterrupt", outcome
    assert outcome.exit_code == 130
    assert time.monotonic() - sent[0] < 2
    return outcome


@pytest.mark.parametrize(
    "code",
    [
        "console.log('go'); while (true) {}",
        "console.log('go'); try { for (;;); } catch { for (;;); } finally { for (;;); }",
        "console.log('go'); await new Promise(() => {})",
        "console.log('go'); while (true) await null",
        "for (;;) console.log('go')",
        "await null; console.log('go'); while (true) {}",
        "console.log('go'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
        "console.log('go'); require('child_process').execSync('sleep 60; sleep 60')",
        "console.log('go'); require('child_process').spawnSync('sleep', ['60'], { stdio: 'inherit' })",
        "await new Promise((r) => setTimeout(r, 5)); console.log('go'); while (true) {}",
        "const { setTimeout: s } = require('timers/promises'); await s(5); console.log('go'); for (;;);",
        "setTimeout(() => { console.log('go'); for (;;); }, 5); await new Promise(() => {})",
        "setInterval(() => { console.log('go'); for (;;); }, 5); await new Promise(() => {})",
        "queueMicrotask(() => { console.log('go'); for (;;); }); await new Promise(() => {})",
        "process.nextTick(() => { console.log('go'); for (;;); }); await new Promise(() => {})",
        "({ [Symbol.for('nodejs.util.inspect.custom')]() { console.log('go'); for (;;); } })",
        "({ toMimeBundle() { console.log('go'); for (;;); } })",
        "await require('fs').promises.readFile('/dev/null'); console.log('go'); require('child_process').execSync('sleep 60')",
        "console.log('go'); process.kill(process.pid, 'SIGINT'); for (;;);",
        "console.log('go'); JSON.parse('[' + '1,'.repeat(1e7) + '1]').sort(() => { for (;;); })",
        "console.log('go'); /(a+)+b/.test('a'.repeat(60))",
    ],
)
def test_code_is_interrupted_and_the_state_kept(host: Host, code: str) -> None:
    assert host.run("let kept = [1]").ok
    for _ in range(2):
        interrupted(host, code)
        assert host.run(
            "kept.push(2); await 1; await new Promise((r) => setTimeout(r, 1)); kept"
        ).ok
    assert host.run("kept.length").text == "3"


def test_cells_that_wait_for_ever_survive_garbage_collections(host: Host) -> None:
    assert host.run("require('v8').setFlagsFromString('--expose-gc')").ok
    assert host.run("const gc = require('vm').runInNewContext('gc'); let rounds = 0").ok
    for _ in range(3):
        code = "setInterval(() => { gc(); if (++rounds % 5 === 0) console.log('go') }, 1); await new Promise(() => {})"
        interrupted(host, code)
        interrupted(host, "console.log('go'); while (true) await null")
        assert (
            host.run("gc(); await new Promise((r) => setTimeout(r, 5)); gc(); rounds > 0").text
            == "true"
        )


def test_many_interrupts_at_any_moment_lose_nothing(host: Host) -> None:
    for number in range(60):
        moment = time.monotonic() + number / 20000
        host.run(
            "for (;;) process.stdout.write('x')",
            interrupt_when=lambda _, moment=moment: time.monotonic() > moment,  # type: ignore[misc]
        )
        assert host.run(f"{number} + 1").text == str(number + 1)


def test_an_interrupt_between_runs_changes_nothing(host: Host) -> None:
    host.driver.interrupt()
    assert host.run("1").text == "1"


def test_timers_of_an_interrupted_run_end_with_it(host: Host) -> None:
    code = (
        "let n = 0; console.log('go'); for (;;) { n++; await new Promise((r) => setTimeout(r, 2)) }"
    )
    interrupted(host, code)
    first = host.run("n").text
    assert host.run("await new Promise((r) => setTimeout(r, 50)); n").text == first


def test_background_timers_survive_the_interrupt_of_another_run(host: Host) -> None:
    assert host.run("var ticks = 0; const beat = setInterval(() => { ticks++ }, 2)").ok
    interrupted(host, "console.log('go'); await new Promise(() => {})")
    assert host.run("ticks = 0; while (ticks < 3) await new Promise((r) => setTimeout(r, 1)); 1").ok
    assert host.run("clearInterval(beat)").ok


def test_background_children_survive_an_interrupt(host: Host) -> None:
    host.run("const child = require('child_process').spawn('sleep', ['60']); child.pid")
    interrupted(host, "console.log('go'); require('child_process').execSync('sleep 60')")
    assert host.run("child.exitCode === null && child.signalCode === null").text == "true"


def test_timers_work_as_in_node(host: Host) -> None:
    code = """
    const { promisify } = require('util');
    const seen = [];
    await promisify(setTimeout)(1); seen.push(await require('timers/promises').setTimeout(1, 'v'));
    const cleared = setTimeout(() => seen.push('never'), 1); clearTimeout(cleared);
    await new Promise((r) => setImmediate((x) => { seen.push(x); r() }, 'i'));
    const timer = setTimeout(function () { seen.push(this === timer) }, 1);
    await new Promise((r) => setTimeout(r, 10));
    seen.push(typeof timer.ref, setTimeout.name); seen
    """
    assert host.run(code).text == "[ 'v', 'i', true, 'function', 'setTimeout' ]"
    assert host.run("setTimeout('text', 1)").failure.name == "TypeError"


def test_prompt_waits_for_a_line(host: Host) -> None:
    outcome = host.run(
        "const a = prompt('Name? '); const b = prompt(); a + '/' + b", lines=["é1", "2"]
    )
    assert outcome.text == "'é1/2'"
    assert outcome.prompts == [("Name? ", False), ("", False)]
    assert host.run("prompt('x')", lines=[]).text == "null"
    code = "await new Promise((r) => setTimeout(r, 1)); prompt('later')"
    assert host.run(code, lines=["l"]).text == "'l'"


def test_a_prompt_can_be_interrupted(host: Host) -> None:
    host.ask = lambda prompt, **_: host.outcome.prompts.append((prompt, False))  # type: ignore[method-assign]
    outcome = host.run("prompt('?')", interrupt_when=lambda seen: bool(seen.prompts))
    assert outcome.failure.name == "KeyboardInterrupt"
    code = "await new Promise((r) => setTimeout(r, 5)); prompt('?')"
    outcome = host.run(code, interrupt_when=lambda seen: bool(seen.prompts))
    assert outcome.failure.name == "KeyboardInterrupt"
    assert host.run("1").text == "1"


def test_a_prompt_is_interrupted_however_often(host: Host) -> None:
    host.ask = lambda prompt, **_: host.outcome.prompts.append((prompt, False))  # type: ignore[method-assign]
    assert host.run("let kept = 0").ok
    for _ in range(100):
        outcome = host.run("kept++; prompt('?')", interrupt_when=lambda seen: bool(seen.prompts))
        assert outcome.failure.name == "KeyboardInterrupt"
    assert host.run("kept").text == "100"


def test_a_signal_at_any_moment_does_not_end_the_host(host: Host) -> None:
    assert host.run("var kept = 0; const beat = setInterval(() => { kept++ }, 0)").ok
    driver = host.driver
    stop = threading.Event()

    def signal_always() -> None:
        while not stop.is_set():
            os.kill(driver.pid, signal.SIGINT)
            time.sleep(0.0003)

    signaller = threading.Thread(target=signal_always)
    signaller.start()
    try:
        for _ in range(200):
            assert host.run("await new Promise((r) => setTimeout(r, 1)); 1").ended
    finally:
        stop.set()
        signaller.join()
    assert host.run("clearInterval(beat); kept > 0").text == "true"


def test_code_that_listens_for_the_signal_is_interrupted(host: Host) -> None:
    assert host.run("var heard = 0; process.on('SIGINT', () => { heard++ })").ok
    interrupted(host, "console.log('go'); for (;;);")
    interrupted(host, "process.once('SIGINT', () => {}); console.log('go'); for (;;);")
    assert host.run("process.removeAllListeners('SIGINT'); heard").ok
    interrupted(host, "console.log('go'); for (;;);")
    # Other signals are heard as ever.
    code = "const heard2 = new Promise((r) => process.on('SIGUSR2', r)); process.kill(process.pid, 'SIGUSR2'); await heard2"
    assert host.run(code).text == "'SIGUSR2'"


def test_process_stdin_asks_for_what_is_read(host: Host) -> None:
    code = """
    const rl = require('readline/promises').createInterface({ input: process.stdin, output: process.stdout });
    const answer = await rl.question('Who? '); rl.close(); answer
    """
    outcome = host.run(code, lines=["me"])
    assert outcome.text == "'me'"
    assert outcome.stdout == "Who? "
    assert host.run("1").prompts == []
    code = "const all = []; for await (const part of process.stdin) all.push(String(part)); all"
    assert host.run(code, lines=["a", "b"]).text == "[ 'a\\n', 'b\\n' ]"


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


def complete(host: Host, code: str) -> Any:
    return host.driver.complete(code, len(code))


def test_completion(host: Host, tmp_path: Path) -> None:
    (tmp_path / "module.mjs").write_text("")
    (tmp_path / "node_modules" / "pack").mkdir(parents=True)
    code = """
    const obj = { first: 1, get second() { throw new Error('ran') }, deep: { under: { last: 1 } } };
    class Base { method() {} } class Derived extends Base { own() {} }
    let inst = new Derived(); function namedFunction() {}; var ran = 0;
    const trap = new Proxy({}, { get() { ran++ }, ownKeys() { ran++; return [] } });
    """
    assert host.run(code).ok
    assert complete(host, "obj.fi") == (["first"], 4, 6)
    assert complete(host, "é = obj.sec") == (["second"], 8, 11)
    assert complete(host, "obj.deep.under.")[0][0:0] == []
    assert "last" in complete(host, "obj.deep.under.")[0]
    assert complete(host, "obj.second.")[0] == []
    assert {"method", "own", "constructor"} <= set(complete(host, "inst.")[0])
    assert "method" in complete(host, "inst?.me")[0]
    assert complete(host, "1 + inst.ow") == (["own"], 9, 11)
    assert complete(host, "named") == (["namedFunction"], 0, 5)
    assert "instanceof" in complete(host, "insta")[0]
    assert "toFixed" not in complete(host, "trap.")[0]
    assert host.run("ran").text == "0"
    assert complete(host, "require('node:child_p")[0] == ["node:child_process"]
    assert complete(host, "import x from './mo") == (["./module.mjs"], 15, 19)
    assert "pack" in complete(host, "await import('pa")[0]
    assert host.driver.complete("obj.fi + 1", 6) == (["first"], 4, 6)


def test_inspection(host: Host) -> None:
    host.run("const o = { v: 1, get g() { throw 1 } }; function add(a, b) {\n  return a + b\n}")
    shown = host.driver.inspect("add(1, 2)", 2)
    assert shown is not None
    assert "function add(a, b) {\n  return a + b\n}" in shown["text/plain"]
    shown = host.driver.inspect("o", 1)
    assert shown is not None
    assert "{ v: 1, g: [Getter] }" in shown["text/plain"]
    assert "number" in (host.driver.inspect("o.v", 3) or {})["text/plain"]
    assert host.driver.inspect("o.g", 3) is None
    assert host.driver.inspect("nothing", 3) is None


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("1 + 1", "complete"),
        ("", "complete"),
        ("for (;;) {", "incomplete"),
        ("f(1,", "incomplete"),
        ("`abc", "incomplete"),
        ("/* x", "incomplete"),
        ("let a = ", "incomplete"),
        ("import a from 'x'; await a", "complete"),
        ("let = = 1", "invalid"),
        ("'abc", "invalid"),
        ("}", "invalid"),
    ],
)
def test_completeness(host: Host, code: str, status: str) -> None:
    assert host.driver.is_complete(code) == status


def test_variables(host: Host) -> None:
    code = """
    const list = [1, 2, 3]; let text = 'hé\\n'; class Point {}; var when = new Map([[1, 2]]);
    function work() {} ; const typed = new Float64Array(4), p = new Point(), none = null; bare = 5;
    const hidden = { get g() { throw new Error('ran') } }; const _private = 1;
    """
    assert host.run(code).ok
    told = host.driver.variables(100)
    by_name = {one["name"]: one for one in told["variables"]}
    assert set(by_name) == set("list text Point when work typed p none bare hidden".split())
    assert told["total"] == 10
    assert by_name["list"] == {
        "name": "list",
        "type": "Array",
        "shape": [3],
        "size": None,
        "preview": "[ 1, 2, 3 ]",
    }
    assert by_name["typed"]["size"] == 32
    assert by_name["when"]["shape"] == [1]
    assert by_name["p"]["type"] == "Point"
    assert [by_name[name]["type"] for name in ("Point", "work", "none", "bare", "text")] == [
        "class",
        "function",
        "null",
        "number",
        "string",
    ]
    assert by_name["hidden"]["preview"] == "{ g: [Getter] }"
    told = host.driver.variables(3)
    assert (len(told["variables"]), told["total"], told["truncated"]) == (3, 10, True)


def test_nothing_is_left_when_the_driver_closes(host: Host) -> None:
    host.run("require('child_process').spawn('sleep', ['77'], { detached: true }); 1")
    below = psutil.Process(host.driver.pid).children(recursive=True)
    assert len(below) == 1
    host.close()
    _, alive = psutil.wait_procs(below, timeout=5)
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
        _, alive = psutil.wait_procs([process], timeout=5)
        assert not alive


def test_an_idle_host_does_not_wake_up(host: Host) -> None:
    assert host.run("1").ok

    def switches() -> int:
        return psutil.Process(host.driver.pid).num_ctx_switches().voluntary

    before = switches()
    time.sleep(0.5)
    assert switches() - before <= 2
