"""The measurements as JSON, in the words that published clients read."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kernelagent.observability.machine import Usage
from kernelagent.observability.measurements import Histogram, Measurements
from kernelagent.observability.service import Gauges
from kernelagent.text import utc_timestamp

_WEBSOCKET = "WEBSOCKET"


def snapshot(
    measurements: Measurements, gauges: Gauges, usage: Usage, uptime: float
) -> dict[str, Any]:
    """All that /metrics tells."""
    failed = measurements.failed_requests
    machine = usage.facts
    return {
        "timestamp": utc_timestamp(),
        "uptime_seconds": round(uptime, 3),
        "total_requests": measurements.total_requests,
        "total_errors": failed,
        "error_count": failed,
        "active_executions": gauges.sessions.get("busy", 0),
        "queued_executions": gauges.queued_runs,
        "total_executions": measurements.total_runs,
        "failed_executions": measurements.failed_runs,
        "executions": _runs(measurements),
        **_requests(measurements),
        "system": machine,
        "process": {"count": usage.processes, "running": usage.running},
        "cpu_percent": usage.cpu_percent,
        "memory_percent": machine["memory"]["usage_percent"],
        "disk_percent": machine["disk"]["usage_percent"],
        "cache": {
            "size": gauges.cache["entries"],
            **{name: gauges.cache[name] for name in ("hits", "misses", "bytes")},
            "hit_rate": round(gauges.cache["hit_rate"], 4),
        },
        "pools": gauges.pools,
        "sessions": {
            state: gauges.sessions.get(state, 0) for state in ("starting", "idle", "busy")
        },
        "jobs": gauges.jobs,
        "commands": {"running": gauges.commands, **_outcomes(measurements.commands)},
        "kernel_memory_bytes": gauges.kernel_memory,
        "event_loop_lag_ms": _milliseconds(measurements.loop_lag),
    }


def _runs(measurements: Measurements) -> list[dict[str, Any]]:
    return [
        {
            "language": language,
            "outcome": outcome,
            "count": times.whole.count,
            "queue_ms": _milliseconds(times.queue),
            "run_ms": _milliseconds(times.run),
            "whole_ms": _milliseconds(times.whole),
        }
        for (language, outcome), times in sorted(measurements.runs.items())
    ]


def _requests(measurements: Measurements) -> dict[str, Any]:
    """By template of the route, whatever the method."""
    counts: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"success": 0, "error": 0})
    for (_, route, status), count in measurements.requests.items():
        counts[route]["error" if status >= 400 else "success"] += count
    times: dict[str, Histogram] = {}
    for (method, route), histogram in measurements.request_times.items():
        # How long a WebSocket stays open says nothing about speed.
        if method == _WEBSOCKET:
            continue
        if route in times:
            times[route].merge(histogram)
        else:
            times[route] = histogram.copy()
    return {
        "requests_total": dict(counts),
        "avg_duration_ms": {route: _ms(found.mean) for route, found in times.items()},
        "p95_duration_ms": {route: _ms(found.quantile(0.95)) for route, found in times.items()},
    }


def _outcomes(commands: dict[str, Histogram]) -> dict[str, Any]:
    return {
        "total": sum(times.count for times in commands.values()),
        "outcomes": {outcome: times.count for outcome, times in commands.items()},
    }


def _milliseconds(times: Histogram) -> dict[str, float]:
    return {
        "avg": _ms(times.mean),
        "p50": _ms(times.quantile(0.5)),
        "p95": _ms(times.quantile(0.95)),
        "p99": _ms(times.quantile(0.99)),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
