"""JavaScript: interrupts at any moment, and timers."""

# ruff: noqa: E501 - the code of cells
from __future__ import annotations

import os
import signal
import threading
import time

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


@pytest.mark.alone
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


@pytest.mark.alone
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


@pytest.mark.alone
def test_timers_of_an_interrupted_run_end_with_it(host: Host) -> None:
    code = (
        "let n = 0; console.log('go'); for (;;) { n++; await new Promise((r) => setTimeout(r, 2)) }"
    )
    interrupted(host, code)
    first = host.run("n").text
    assert host.run("await new Promise((r) => setTimeout(r, 50)); n").text == first


@pytest.mark.alone
def test_background_timers_survive_the_interrupt_of_another_run(host: Host) -> None:
    assert host.run("var ticks = 0; const beat = setInterval(() => { ticks++ }, 2)").ok
    interrupted(host, "console.log('go'); await new Promise(() => {})")
    assert host.run("ticks = 0; while (ticks < 3) await new Promise((r) => setTimeout(r, 1)); 1").ok
    assert host.run("clearInterval(beat)").ok


@pytest.mark.alone
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


@pytest.mark.alone
def test_code_that_listens_for_the_signal_is_interrupted(host: Host) -> None:
    assert host.run("var heard = 0; process.on('SIGINT', () => { heard++ })").ok
    interrupted(host, "console.log('go'); for (;;);")
    interrupted(host, "process.once('SIGINT', () => {}); console.log('go'); for (;;);")
    assert host.run("process.removeAllListeners('SIGINT'); heard").ok
    interrupted(host, "console.log('go'); for (;;);")
    # Other signals are heard as ever.
    code = "const heard2 = new Promise((r) => process.on('SIGUSR2', r)); process.kill(process.pid, 'SIGUSR2'); await heard2"
    assert host.run(code).text == "'SIGUSR2'"
