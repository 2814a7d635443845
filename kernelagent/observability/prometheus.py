"""The measurements in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from kernelagent import __version__
from kernelagent.observability.measurements import Histogram, Measurements
from kernelagent.observability.service import Gauges

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_PREFIX = "kernelagent_"

Labels = TypeVar("Labels", bound=tuple[str, ...])


def render(measurements: Measurements, gauges: Gauges, accept: str) -> tuple[bytes, str]:
    """The exposition and its media type: OpenMetrics if `accept` asks, else the text format.

    `measurements` is a copy that nobody changes; takes milliseconds, so it is called in a thread.
    """
    # Of this answer alone: nothing of other libraries is in it, and two scrapes share nothing.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(measurements, gauges))
    ProcessCollector(registry=registry)
    if "application/openmetrics-text" in accept.lower():
        return generate_openmetrics(registry), OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(registry), TEXT


class _Families(Collector):
    def __init__(self, measurements: Measurements, gauges: Gauges) -> None:
        self._measurements = measurements
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        yield from self._runs()
        yield from self._kernels()
        yield from self._others()
        yield from self._requests()

    def _runs(self) -> Iterator[Metric]:
        runs = self._measurements.runs
        labels = ("language", "outcome")
        for name, text, times in (
            ("execution_queue", "Time a run waited for its turn and its kernel", "queue"),
            ("execution_run", "Time from a kernel's taking the code to its being free", "run"),
            ("execution", "Queue and run together", "whole"),
        ):
            found = {key: getattr(entry, times) for key, entry in runs.items()}
            yield _histogram(f"{name}_seconds", text, labels, found)
        yield _counter(
            "executions_refused",
            "Runs that were not run, by the code of the error",
            ("language", "code"),
            self._measurements.refused_runs,
        )
        waiting = {(): self._gauges.queued_runs}
        yield _gauge("executions_queued", "Runs that wait for their turn", (), waiting)

    def _kernels(self) -> Iterator[Metric]:
        gauges = self._gauges
        yield _gauge(
            "pool_kernels",
            "Kernels: idle, starting, leased, and how many shall be idle (wanted)",
            ("language", "state"),
            {
                (language, state): facts[state]
                for language, facts in gauges.pools.items()
                for state in ("idle", "starting", "leased", "wanted")
            },
        )
        yield _histogram(
            "kernel_start_seconds",
            "Time a kernel took to its first answer, by how it came to be",
            ("language", "how"),
            self._measurements.starts,
        )
        yield _counter(
            "kernel_starts_failed",
            "Kernels that could not be started, by the code of the error",
            ("language", "code"),
            self._measurements.failed_starts,
        )
        yield _gauge(
            "kernel_memory_bytes",
            "Resident memory of kernels and their children; shared pages count for each",
            ("language",),
            {(language,): used for language, used in gauges.kernel_memory.items()},
        )
        yield _counter(
            "fork_server_restarts",
            "How often a fork server was replaced",
            ("language",),
            {(name,): facts["restarts"] for name, facts in gauges.fork_servers.items()},
        )
        yield _gauge(
            "checkpoints", "Kept states of sessions", (), {(): gauges.checkpoints["count"]}
        )
        yield _gauge(
            "sessions",
            "Sessions by state",
            ("state",),
            {(state,): gauges.sessions.get(state, 0) for state in ("starting", "idle", "busy")},
        )

    def _others(self) -> Iterator[Metric]:
        gauges, measurements = self._gauges, self._measurements
        yield _gauge(
            "jobs",
            "Background jobs that run or wait",
            ("kind", "state"),
            {
                (kind, state): facts[state]
                for kind, facts in gauges.jobs.items()
                for state in ("running", "queued")
            },
        )
        yield _counter("jobs_ended", "Jobs that are over", ("kind", "status"), measurements.jobs)
        running = {(): gauges.commands}
        yield _gauge("commands_running", "Commands whose end is waited for", (), running)
        yield _histogram(
            "command_seconds",
            "Time a command took",
            ("outcome",),
            {(outcome,): times for outcome, times in measurements.commands.items()},
        )
        cache = gauges.cache
        yield _gauge("cache_entries", "Cached results", (), {(): cache["entries"]})
        yield _gauge("cache_bytes", "Memory that they take", (), {(): cache["bytes"]})
        yield _counter("cache_hits", "Runs answered from the cache", (), {(): cache["hits"]})
        yield _counter("cache_misses", "Runs that were not in it", (), {(): cache["misses"]})
        yield _histogram(
            "event_loop_lag_seconds",
            "How late the event loop came to a timer",
            (),
            {(): measurements.loop_lag},
        )
        version = {(__version__,): 1}
        yield _gauge("build_info", "Always 1; the version is a label", ("version",), version)

    def _requests(self) -> Iterator[Metric]:
        requests = {
            (method, route, str(status)): count
            for (method, route, status), count in self._measurements.requests.items()
        }
        yield _counter(
            "http_requests",
            "Requests and WebSockets that are over, by template of the route",
            ("method", "route", "status"),
            requests,
        )
        yield _histogram(
            "http_request_seconds",
            "Time to the end of the answer; of a WebSocket, to its close",
            ("method", "route"),
            self._measurements.request_times,
        )


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, text: str, labels: Sequence[str], values: Mapping[Labels, Histogram]
) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=labels)
    for key, histogram in values.items():
        seen, buckets = 0, []
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            seen += count
            buckets.append((str(bound), seen))
        family.add_metric(key, buckets, histogram.total)
    return family
