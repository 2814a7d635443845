"""/metrics, /metrics/snapshot, /metrics/prometheus and /system on a real server."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kernelagent.auth.tokens import EXECUTE, Authenticator
from kernelagent.settings import Settings
from tests.execution.streams import waiting
from tests.jobs.jobs import follow, start_command
from tests.runs import client_of, refused, run, session, until_busy
from tests.servers import Service, serving_in_process
from tests.waiting import PATIENCE, until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server of these tests' own: they count."""
    root = tmp_path_factory.mktemp("metrics")
    with serving_in_process(root, queue_limit=1, preload=()) as running:
        yield running


async def get(server: Service, path: str) -> dict[str, Any]:
    async with client_of(server) as client:
        response = await client.get(path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


async def families(server: Service) -> list[Metric]:
    async with client_of(server) as client:
        response = await client.get("/metrics/prometheus")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return list(parse_text(response.text))


async def scrape(server: Service) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in await families(server)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"kernelagent_{name}", frozenset(labels.items())), 0.0)


def increase(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


async def test_snapshot_has_what_published_clients_read(server: Service) -> None:
    await run(server, "1")
    answer = await get(server, "/metrics/snapshot")
    for name in ("total_requests", "total_errors", "error_count", "active_executions"):
        assert isinstance(answer[name], int), name
    for name in ("total_executions", "failed_executions"):
        assert isinstance(answer[name], int), name
    for name in ("uptime_seconds", "cpu_percent", "memory_percent", "disk_percent"):
        assert isinstance(answer[name], int | float), name
    assert answer["requests_total"]["/execute"]["success"] >= 1
    # As a published example goes through them.
    for path, counts in answer["requests_total"].items():
        assert {"success", "error"} == set(counts)
        for name in ("avg_duration_ms", "p95_duration_ms"):
            assert float(f"{answer[name][path]:.2f}") >= 0
    for part in ("memory", "disk"):
        assert set(answer["system"][part]) == {"total", "used", "free", "usage_percent"}
        assert 0 <= answer["system"][part]["usage_percent"] <= 100
    assert set(answer["system"]["cpu"]) == {"usage_percent", "cores"}
    assert answer["process"]["count"] > 1
    assert {"size", "hits", "misses", "hit_rate"} <= set(answer["cache"])


async def test_both_names_of_the_snapshot_answer_alike(server: Service) -> None:
    one, other = await get(server, "/metrics"), await get(server, "/metrics/snapshot")
    assert set(one) == set(other)


async def test_runs_are_counted_and_timed_by_language_and_outcome(server: Service) -> None:
    before = await scrape(server)
    await run(server, "import time; time.sleep(0.12)")
    await run(server, "1/0")
    await run(server, "import time; time.sleep(60)", timeout=0.3)
    await run(server, "echo hi", language="bash")
    after = await scrape(server)
    for language, outcome in (
        ("python", "ok"),
        ("python", "error"),
        ("python", "timeout"),
        ("bash", "ok"),
    ):
        labels = {"language": language, "outcome": outcome}
        for name in ("execution_queue_seconds", "execution_run_seconds", "execution_seconds"):
            assert increase(before, after, f"{name}_count", **labels) == 1
            assert increase(before, after, f"{name}_bucket", **labels, le="+Inf") == 1
    slept = {"language": "python", "outcome": "ok"}
    assert 0.12 < increase(before, after, "execution_run_seconds_sum", **slept) < PATIENCE
    assert increase(before, after, "execution_run_seconds_bucket", **slept, le="0.1") == 0


async def test_a_run_that_waits_has_waited(server: Service, tmp_path: Path) -> None:
    async with session(server) as session_id:
        before, total = await scrape(server), await get(server, "/metrics")
        first = asyncio.create_task(run(server, waiting(tmp_path / "go"), session_id=session_id))
        await until_busy(server, session_id)
        second = asyncio.create_task(run(server, "2", session_id=session_id))
        await until_busy(server, session_id, queued=1)
        began = time.monotonic()
        during = await get(server, "/metrics")
        assert (during["active_executions"], during["queued_executions"]) == (1, 1)
        assert value(await scrape(server), "executions_queued") == 1
        await refused(server, 409, "3", session_id=session_id)
        held = time.monotonic() - began
        (tmp_path / "go").touch()
        await asyncio.gather(first, second)
        after = await scrape(server)
    labels = {"language": "python", "outcome": "ok"}
    waited = increase(before, after, "execution_queue_seconds_sum", **labels)
    ran = increase(before, after, "execution_run_seconds_sum", **labels)
    whole = increase(before, after, "execution_seconds_sum", **labels)
    assert waited > held > 0
    assert math.isclose(whole, waited + ran, rel_tol=1e-6)
    assert (
        increase(before, after, "executions_refused_total", language="python", code="QUEUE_FULL")
        == 1
    )
    assert (await get(server, "/metrics"))["total_executions"] == total["total_executions"] + 2


async def test_requests_are_counted_by_template_and_status(server: Service) -> None:
    before = await scrape(server)
    async with client_of(server) as client:
        for name in ("one", "two"):
            await client.get(f"/sessions/{name}")
        await client.get("/no/such/route")
        await client.request("PROPFIND", "/sessions/tea")
        await client.get("/docs")
        await client.post("/execute", content=b"{")
    async with websockets.connect(
        f"{server.websocket_url}/stream", additional_headers=server.headers, proxy=None
    ):
        pass

    async def closed() -> bool:
        after = await scrape(server)
        socket = {"method": "WEBSOCKET", "route": "/stream", "status": "101"}
        return increase(before, after, "http_requests_total", **socket) == 1

    await until(closed)
    after = await scrape(server)

    def counted(method: str, route: str, status: int) -> float:
        labels = {"method": method, "route": route, "status": str(status)}
        return increase(before, after, "http_requests_total", **labels)

    assert counted("GET", "/sessions/{session_id}", 404) == 2
    assert counted("GET", "unmatched", 404) == 1
    assert counted("other", "/sessions/{session_id}", 405) == 1
    assert counted("GET", "other", 200) == 1
    assert counted("POST", "/execute", 400) == 1
    assert increase(before, after, "http_request_seconds_count", method="POST", route="/execute")


async def test_kernels_pools_sessions_commands_and_jobs(server: Service) -> None:
    before = await scrape(server)
    async with session(server, language="bash"), client_of(server) as client:
        await client.post("/commands/run", json={"command": "exit 3"})
        await follow(server, await start_command(server, "true"))

        async def counted() -> bool:
            after = await scrape(server)
            ended = {"kind": "command", "status": "completed"}
            return increase(before, after, "jobs_ended_total", **ended) == 1

        await until(counted)
        after = await scrape(server)
        assert value(after, "pool_kernels", language="bash", state="leased") >= 1
    assert value(after, "pool_kernels", language="python", state="wanted") == 1
    assert increase(before, after, "command_seconds_count", outcome="error") == 1
    starts = sum(
        increase(before, after, "kernel_start_seconds_count", language="bash", how=how)
        for how in ("forked", "spawned")
    )
    assert starts == 1
    assert value(after, "sessions", state="idle") >= 1
    assert value(after, "event_loop_lag_seconds_count") > 0
    assert value(after, "jobs", kind="code", state="running") == 0


async def test_memory_of_kernels_is_seen(server: Service) -> None:
    async with session(server) as session_id:
        await run(server, "x = bytearray(150_000_000)", session_id=session_id)

        async def is_seen() -> bool:
            used = value(await scrape(server), "kernel_memory_bytes", language="python")
            return used > 150_000_000

        await until(is_seen)
    assert (await get(server, "/metrics"))["kernel_memory_bytes"]["python"] > 0


async def test_labels_are_few_and_carry_no_ids(server: Service) -> None:
    async with session(server) as session_id:
        answer = await run(server, "'secret-of-the-code'", session_id=session_id)
        async with client_of(server) as client:
            await client.get(f"/sessions/{session_id}")
            text = (await client.get("/metrics/prometheus")).text
    for word in (session_id, answer["execution_id"], "secret-of-the-code", "cli", server.token):
        assert word not in text
    names = {
        label for family in parse_text(text) for sample in family.samples for label in sample.labels
    }
    assert names == {
        "language", "outcome", "code", "how", "state", "kind", "status", "method", "route", "le",
        "version",
    }  # fmt: skip


async def test_histograms_are_whole(server: Service) -> None:
    await run(server, "1")
    for family in await families(server):
        assert family.documentation
        if family.type != "histogram":
            continue
        series: dict[frozenset[tuple[str, str]], dict[str, float]] = {}
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", sample.name.removeprefix(f"{family.name}_"))
            series.setdefault(frozenset(labels.items()), {})[bound] = sample.value
        for found in series.values():
            total, count = found.pop("sum"), found.pop("count")
            assert found["+Inf"] == count
            assert total >= 0
            ordered = [found[bound] for bound in sorted(found, key=float)]
            assert ordered == sorted(ordered)


async def test_openmetrics_if_it_is_asked_for(server: Service) -> None:
    await run(server, "1")
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    async with client_of(server, Accept=accept) as client:
        response = await client.get("/metrics/prometheus")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    parsed = parse_openmetrics(response.text)  # type: ignore[no-untyped-call]
    names = {family.name for family in parsed}
    assert {"kernelagent_execution_seconds", "kernelagent_http_requests"} <= names


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=nonsense", "text/plain;version=9;q=x", ";;"]
)
async def test_a_strange_accept_is_no_fault(server: Service, accept: str) -> None:
    async with client_of(server, Accept=accept) as client:
        assert (await client.get("/metrics/prometheus")).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/metrics/snapshot", "/metrics/prometheus"])
async def test_metrics_need_their_scope(server: Service, settings: Settings, path: str) -> None:
    token, _ = Authenticator.from_settings(settings).issue(scopes=[EXECUTE])
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get(path)).status_code == 401
        answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "ACCESS_DENIED")


async def test_system_tells_of_the_machine_and_no_secret(server: Service) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = (await client.get("/system")).json()
    assert set(answer["os"]) == {"name", "version", "kernel", "arch", "hostname", "timezone"}
    assert set(answer["hardware"]) == {"cpu_cores", "cpu_model", "memory_mb", "disk_mb"}
    assert answer["hardware"]["memory_mb"] > 100
    assert "127.0.0.1" in [item["ip"] for item in answer["network"]["interfaces"]]
    assert {"shell", "path", "user", "home", "working_dir"} <= set(answer["environment"])
    assert answer["environment"]["working_dir"] == str(server.workspace)
    assert set(answer["environment"]["environment"]) <= {"LANG", "LC_ALL", "TZ", "TERM"}
    assert "code_execution" in answer["capabilities"]
    assert answer["memory"]["total"] >= answer["memory"]["used"] > 0
    assert answer["uptime"] > 0
    assert "secret" not in json.dumps(answer).lower()


# The queries of docs/observability.md, evaluated as Prometheus does.


def rate(before: Samples, after: Samples, seconds: float, name: str) -> dict[Any, float]:
    """rate(name[...]) between two scrapes, by labels."""
    full = f"kernelagent_{name}"
    return {
        labels: (found - before.get((full, labels), 0.0)) / seconds
        for (sample, labels), found in after.items()
        if sample == full
    }


def summed(rates: dict[Any, float], *by: str) -> dict[tuple[str, ...], float]:
    """sum by (by) (rates)."""
    sums: dict[tuple[str, ...], float] = {}
    for labels, found in rates.items():
        key = tuple(dict(labels).get(name, "") for name in by)
        sums[key] = sums.get(key, 0.0) + found
    return sums


def histogram_quantile(share: float, buckets: dict[str, float]) -> float:
    """As in PromQL: linear within the bucket that the quantile falls into."""
    wanted = share * buckets["+Inf"]
    low, below = 0.0, 0.0
    for bound in sorted(buckets, key=float):
        if buckets[bound] >= wanted:
            if bound == "+Inf":
                return low
            return low + (float(bound) - low) * (wanted - below) / (buckets[bound] - below)
        low, below = float(bound), buckets[bound]
    raise AssertionError("a histogram has +Inf")


async def test_the_queries_of_the_documentation(server: Service) -> None:
    await run(server, "1")
    before = await scrape(server)
    for _ in range(8):
        await run(server, "import time; time.sleep(0.03)")
    for _ in range(2):
        await run(server, "1/0")
    after = await scrape(server)
    seconds = 15.0

    # Runs per second by language and outcome.
    runs = summed(rate(before, after, seconds, "execution_seconds_count"), "language", "outcome")
    assert math.isclose(runs["python", "ok"], 8 / seconds)
    assert math.isclose(runs["python", "error"], 2 / seconds)
    # The share of runs that did not end well.
    failed = sum(found for (_, outcome), found in runs.items() if outcome != "ok")
    assert math.isclose(failed / sum(runs.values()), 0.2)
    # The 95th percentile of the run time.
    by_bound = summed(
        rate(before, after, seconds, "execution_run_seconds_bucket"), "language", "le"
    )
    buckets = {
        bound: found for (language, bound), found in by_bound.items() if language == "python"
    }
    assert 0.025 < histogram_quantile(0.95, buckets) < PATIENCE
    assert buckets["+Inf"] * seconds == pytest.approx(10)
    # The mean time in the queue.
    waited = summed(rate(before, after, seconds, "execution_queue_seconds_sum"))[()]
    count = summed(rate(before, after, seconds, "execution_queue_seconds_count"))[()]
    assert 0 < waited / count < PATIENCE
    # The share of requests that were answered with 5xx.
    requests = summed(rate(before, after, seconds, "http_requests_total"), "status")
    assert sum(found for (status,), found in requests.items() if status.startswith("5")) == 0
    assert math.isclose(requests[("200",)], 11 / seconds)
