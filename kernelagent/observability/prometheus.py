"""The measurements in the words of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from kernelagent import __version__
from kernelagent.observability.exposition import Exposition
from kernelagent.observability.measurements import Measurements
from kernelagent.observability.service import Gauges

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_PREFIX = "kernelagent_"

_process = ProcessCollector(registry=None)


def render(measurements: Measurements, gauges: Gauges, accept: str) -> tuple[bytes, str]:
    """The exposition and its media type: OpenMetrics if `accept` asks, else the text format.

    `measurements` is a copy that nobody changes; takes milliseconds, so it is called in a thread.
    """
    openmetrics = "application/openmetrics-text" in accept.lower()
    out = Exposition(_PREFIX)
    _runs(out, measurements, gauges)
    _kernels(out, measurements, gauges)
    _others(out, measurements, gauges)
    _requests(out, measurements)
    # Not the global one: nothing that another library counts is in our answer.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(out)
    registry.register(_process)
    if openmetrics:
        return generate_openmetrics(registry), OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(registry), TEXT


def _runs(out: Exposition, measurements: Measurements, gauges: Gauges) -> None:
    runs = measurements.runs
    labels = ("language", "outcome")
    for name, text, times in (
        ("execution_queue", "Time a run waited for its turn and its kernel", "queue"),
        ("execution_run", "Time from a kernel's taking the code to its being free", "run"),
        ("execution", "Queue and run together", "whole"),
    ):
        found = {key: getattr(entry, times) for key, entry in runs.items()}
        out.histogram(f"{name}_seconds", text, labels, found)
    out.counter(
        "executions_refused",
        "Runs that were not run, by the code of the error",
        ("language", "code"),
        measurements.refused_runs,
    )
    waiting = {(): gauges.queued_runs}
    out.gauge("executions_queued", "Runs that wait for their turn", (), waiting)


def _kernels(out: Exposition, measurements: Measurements, gauges: Gauges) -> None:
    out.gauge(
        "pool_kernels",
        "Kernels: idle, starting, leased, and how many shall be idle (wanted)",
        ("language", "state"),
        {
            (language, state): facts[state]
            for language, facts in gauges.pools.items()
            for state in ("idle", "starting", "leased", "wanted")
        },
    )
    out.histogram(
        "kernel_start_seconds",
        "Time a kernel took to its first answer, by how it came to be",
        ("language", "how"),
        measurements.starts,
    )
    out.counter(
        "kernel_starts_failed",
        "Kernels that could not be started, by the code of the error",
        ("language", "code"),
        measurements.failed_starts,
    )
    out.gauge(
        "kernel_memory_bytes",
        "Resident memory of kernels and their children; shared pages count for each",
        ("language",),
        {(language,): used for language, used in gauges.kernel_memory.items()},
    )
    out.counter(
        "fork_server_restarts",
        "How often a fork server was replaced",
        ("language",),
        {(name,): facts["restarts"] for name, facts in gauges.fork_servers.items()},
    )
    out.gauge("checkpoints", "Kept states of sessions", (), {(): gauges.checkpoints["count"]})
    out.gauge(
        "sessions",
        "Sessions by state",
        ("state",),
        {(state,): gauges.sessions.get(state, 0) for state in ("starting", "idle", "busy")},
    )


def _others(out: Exposition, measurements: Measurements, gauges: Gauges) -> None:
    out.gauge(
        "jobs",
        "Background jobs that run or wait",
        ("kind", "state"),
        {
            (kind, state): facts[state]
            for kind, facts in gauges.jobs.items()
            for state in ("running", "queued")
        },
    )
    out.counter("jobs_ended", "Jobs that are over", ("kind", "status"), measurements.jobs)
    running = {(): gauges.commands}
    out.gauge("commands_running", "Commands whose end is waited for", (), running)
    out.histogram(
        "command_seconds",
        "Time a command took",
        ("outcome",),
        {(outcome,): times for outcome, times in measurements.commands.items()},
    )
    cache = gauges.cache
    out.gauge("cache_entries", "Cached results", (), {(): cache["entries"]})
    out.gauge("cache_bytes", "Memory that they take", (), {(): cache["bytes"]})
    out.counter("cache_hits", "Runs answered from the cache", (), {(): cache["hits"]})
    out.counter("cache_misses", "Runs that were not in it", (), {(): cache["misses"]})
    out.histogram(
        "event_loop_lag_seconds",
        "How late the event loop came to a timer",
        (),
        {(): measurements.loop_lag},
    )
    version = {(__version__,): 1}
    out.gauge("build_info", "Always 1; the version is a label", ("version",), version)


def _requests(out: Exposition, measurements: Measurements) -> None:
    requests = {
        (method, route, str(status)): count
        for (method, route, status), count in measurements.requests.items()
    }
    out.counter(
        "http_requests",
        "Requests and WebSockets that are over, by template of the route",
        ("method", "route", "status"),
        requests,
    )
    out.histogram(
        "http_request_seconds",
        "Time to the end of the answer; of a WebSocket, to its close",
        ("method", "route"),
        measurements.request_times,
    )
