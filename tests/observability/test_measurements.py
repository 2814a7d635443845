"""Counting and looking, apart from any server."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kernelagent.observability import brief as briefs
from kernelagent.observability import kernel_memory, machine
from kernelagent.observability.brief import Brief
from kernelagent.observability.exposition import Exposition
from kernelagent.observability.kernel_memory import KernelMemoryLook
from kernelagent.observability.machine import Machine
from kernelagent.observability.measurements import LONG, Histogram, Measurements
from kernelagent.observability.prometheus import render
from kernelagent.observability.service import Gauges
from kernelagent.observers import Event, JobEnded, Observers, RequestEnded, RunEnded


class Clock:
    """The module `time` of what is tested, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def run_ended(outcome: str = "ok", *, begun: bool = True, seconds: float = 0.2) -> RunEnded:
    return RunEnded("exec_1", "s", "python", outcome, 0, begun, 0.1, seconds)


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.add(value)
    assert histogram.counts == [2, 2, 1]
    assert (histogram.count, histogram.total, histogram.mean) == (5, 7.5, 1.5)


def test_quantiles_are_within_their_range() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    assert histogram.quantile(0.95) == histogram.mean == 0.0
    for _ in range(90):
        histogram.add(0.5)
    for _ in range(10):
        histogram.add(3.0)
    assert histogram.quantile(0.45) == 0.5
    assert histogram.quantile(0.9) == 1.0
    assert histogram.quantile(0.95) == 3.0
    histogram.add(100.0)
    assert histogram.quantile(1.0) == 4.0


def test_a_copy_stands_still() -> None:
    measurements = Measurements()
    measurements(run_ended())
    copied = measurements.copy()
    measurements(run_ended())
    measurements(run_ended("error"))
    measurements(RequestEnded({}, "GET", "/health", 200, 0.01))
    assert (copied.total_runs, copied.failed_runs, copied.total_requests) == (1, 0, 0)
    assert (measurements.total_runs, measurements.failed_runs) == (3, 1)


def test_a_run_that_never_began_has_waited_but_not_run() -> None:
    measurements = Measurements()
    measurements(run_ended("cancelled", begun=False, seconds=0.0))
    times = measurements.runs["python", "cancelled"]
    assert (times.queue.count, times.run.count, times.whole.count) == (1, 0, 1)


def test_what_nobody_counts_is_let_pass() -> None:
    measurements = Measurements()
    measurements(JobEnded("job", "code", "completed", 1.0))
    assert measurements.jobs["code", "completed"] == 1


def test_a_listener_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(_: Event) -> None:
        raise RuntimeError("no")

    observers = Observers()
    observers.add(broken)
    observers.add(heard.append)
    with caplog.at_level(logging.ERROR):
        observers.tell(run_ended())
    assert len(heard) == 1
    assert "RunEnded" in caplog.text
    observers.remove(broken)
    caplog.clear()
    observers.tell(run_ended())
    assert not caplog.records


async def test_a_brief_value_is_got_once_for_all_who_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(briefs, "time", clock)
    calls: list[int] = []
    go = asyncio.Event()

    async def get() -> int:
        calls.append(len(calls))
        await go.wait()
        return calls[-1]

    brief = Brief(get, 0.2)
    waiting = [asyncio.create_task(brief.value()) for _ in range(10)]
    leaving = asyncio.create_task(brief.value())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    go.set()
    assert await asyncio.gather(*waiting) == [0] * 10
    assert await brief.value() == 0
    clock.now += 0.19
    assert await brief.value() == 0
    clock.now += 0.02
    assert await brief.value() == 1
    assert len(calls) == 2
    await brief.close()


async def test_a_brief_value_that_fails_is_tried_again() -> None:
    calls: list[None] = []

    async def get() -> int:
        calls.append(None)
        if len(calls) == 1:
            raise OSError("once")
        return 7

    brief = Brief(get, 10)
    with pytest.raises(OSError, match="once"):
        await brief.value()
    assert await brief.value() == 7


def test_memory_of_a_process_and_its_children() -> None:
    code = (
        "import subprocess, sys\n"
        "x = bytearray(60_000_000)\n"
        "c = subprocess.Popen([sys.executable, '-c', "
        "'x = bytearray(60_000_000); print(1, flush=True); input()'], stdin=subprocess.PIPE, "
        "stdout=subprocess.PIPE)\n"
        "c.stdout.readline(); print(1, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        look = KernelMemoryLook()
        used = look.look({process.pid: "python", os.getpid(): "go"})
        assert used["python"] > 120_000_000
        assert 0 < used["go"] < 2**33
    finally:
        process.communicate(b"\n")
    assert look.look({}) == {}
    assert look.look({process.pid: "python"}) == {"python": 0}


def test_one_look_is_bounded_and_goes_on_with_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(kernel_memory, "time", clock)
    asked: list[int] = []

    def slow(pid: int) -> int:
        asked.append(pid)
        clock.now += 0.011
        return 1

    look = KernelMemoryLook(measure=slow, budget=0.02)
    kernels = dict.fromkeys(range(1, 7), "python")
    for _ in range(3):
        look.look(kernels)
    assert len(asked) <= 7
    assert set(asked) == set(kernels)
    assert look.look(kernels) == {"python": 6}


def test_the_machine_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(machine, "time", clock)
    looked = Machine(tmp_path)
    stop = time.monotonic() + 0.2
    while time.monotonic() < stop:
        pass
    clock.now += 0.2
    usage = looked.usage()
    assert 0 < usage.cpu_percent <= 100
    assert usage.memory.total == usage.memory.used + usage.memory.free
    assert usage.disk.total >= usage.disk.used > 0
    assert usage.processes > 0
    # Asked again at once: too short a time to tell anything new.
    assert looked.usage().cpu_percent == usage.cpu_percent
    assert machine.disk_share(tmp_path / "gone").facts["usage_percent"] == 0.0


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    files = {
        2: ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        1: (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    }[version]
    (tmp_path / "memory").mkdir()
    limit, used, details, reclaimable = files
    (tmp_path / limit).write_text("100000000\n")
    (tmp_path / used).write_text("50000000\n")
    (tmp_path / details).write_text(f"anon 1\n{reclaimable} 10000000\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.memory_share() == machine.Share(100000000, 40000000, 60000000)
    (tmp_path / limit).write_text("max\n")
    assert machine.memory_share().total > 100000000


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_processors_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert machine.cores() == expected


def test_the_environment_shown_is_a_white_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "secret-value")
    monkeypatch.setenv("TZ", "UTC")
    facts = Machine(tmp_path).facts()
    assert "secret-value" not in str(facts)
    assert facts["environment"]["environment"]["TZ"] == "UTC"


def full() -> tuple[Measurements, Gauges]:
    """What a service with everything in use would show."""
    measurements = Measurements()
    outcomes = ("ok", "error", "timeout", "interrupted", "kernel_died", "out_of_memory")
    languages = ("python", "javascript", "typescript", "bash", "go")
    for language in languages:
        for outcome in outcomes:
            measurements(RunEnded("e", "s", language, outcome, 0, True, 0.1, 0.2))
    for number in range(80):
        for status in (200, 400, 404):
            measurements(RequestEnded({}, "GET", f"/route/{number}", status, 0.01))
    pool = {"idle": 1, "starting": 0, "leased": 10, "wanted": 1, "error": ""}
    gauges = Gauges(
        pools=dict.fromkeys(languages, pool),
        fork_servers={language: {"restarts": 0} for language in languages},
        sessions={"idle": 50},
        queued_runs=0,
        jobs={"code": {"running": 1, "queued": 0, "limit": 8}},
        commands=0,
        checkpoints={"count": 0},
        kernel_memory={"python": 1},
        cache={"entries": 0, "bytes": 0, "hits": 0, "misses": 0, "hit_rate": 0.0},
    )
    return measurements, gauges


@pytest.mark.parametrize("openmetrics", [False, True])
def test_labels_are_escaped_and_numbers_exact(openmetrics: bool) -> None:
    out = Exposition("x_")
    labels = ('a"b', "c\\d\ne", "")
    out.gauge("gauge", "Text", ("one", "two", "three"), {labels: 0.1 + 0.2})
    out.counter("counter", "Text", (), {(): 2**53})
    registry = CollectorRegistry(auto_describe=False)
    registry.register(out)
    gauge, counter = (
        parse_openmetrics(generate_openmetrics(registry).decode())  # type: ignore[no-untyped-call]
        if openmetrics
        else parse_text(generate_latest(registry).decode())
    )
    (sample,) = gauge.samples
    assert sample.labels == dict(zip(("one", "two", "three"), labels, strict=True))
    assert sample.value == 0.1 + 0.2
    assert (counter.type, counter.samples[0].name) == ("counter", "x_counter_total")
    assert counter.samples[0].value == 2**53


async def test_rendering_happens_off_the_loop_and_copying_is_quick() -> None:
    measurements, gauges = full()
    threads: list[int] = []

    def rendered() -> bytes:
        threads.append(threading.get_ident())
        return render(measurements.copy(), gauges, "")[0]

    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        measurements.copy()
        best = min(best, time.perf_counter() - started)
    assert best < 0.01  # about 0.2 ms on an idle machine
    text = await asyncio.to_thread(rendered)
    assert threads != [threading.get_ident()]
    buckets = len(LONG) + 3
    assert text.count(b"kernelagent_execution_run_seconds_") == 30 * buckets
