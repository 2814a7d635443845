"""Traces as a collector gets them from a real server, and the service without the SDK."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kernelagent.observability.tracing import wanted_exporter
from tests.jobs.jobs import follow, start
from tests.runs import client_of, run, session
from tests.servers import Server, serving, start_server
from tests.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@dataclass
class Span:
    """A span as it was sent."""

    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    failed: bool
    facts: dict[str, Any]


@dataclass
class Collector:
    """What was sent to it."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            self.resources.append(_facts(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == 2,
                        _facts(span.attributes),
                    )
                    for span in scope.spans
                ]

    async def span(self, name: str, **facts: Any) -> Span:
        """The one span of this name with these facts (`_` for each dot), once it is there."""
        wanted = {key.replace("_", ".", 1): value for key, value in facts.items()}

        def found() -> list[Span]:
            return [
                span
                for span in list(self.spans)
                if span.name == name and wanted.items() <= span.facts.items()
            ]

        async def there() -> bool:
            return bool(found())

        await until(there)
        (span,) = found()
        return span


def _facts(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector that listens on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            got.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    got = Collector(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield got
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("tracing")
    with serving(
        root,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        KERNELAGENT_PRELOAD="",
    ) as running:
        yield running


async def execute(server: Server, code: str, **fields: Any) -> dict[str, Any]:
    async with client_of(server, traceparent=TRACEPARENT) as client:
        response = await client.post("/execute", json={"code": code, **fields})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_run_is_a_part_of_its_callers_trace(server: Server, collector: Collector) -> None:
    async with session(server) as session_id:
        answer = await execute(server, "import time; time.sleep(0.1)", session_id=session_id)
    execution = await collector.span("execution", kernelagent_execution_id=answer["execution_id"])
    (request,) = [span for span in collector.spans if span.id == execution.parent]
    assert (request.name, request.trace, request.parent) == ("POST /execute", TRACE, PARENT)
    assert request.facts["http.request.method"] == "POST"
    assert request.facts["http.route"] == "/execute"
    assert request.facts["http.response.status_code"] == 200
    assert request.facts["kernelagent.request_id"]
    assert execution.trace == TRACE
    assert execution.facts["kernelagent.session_id"] == session_id
    assert execution.facts["kernelagent.outcome"] == "ok"
    parts = {span.name: span for span in collector.spans if span.parent == execution.id}
    assert set(parts) == {"queue", "run"}
    queue, ran = parts["queue"], parts["run"]
    assert queue.began == execution.began
    assert queue.ended == ran.began
    assert ran.ended == execution.ended
    assert ran.ended - ran.began > 90_000_000
    # Wall clocks: within the request, but for a millisecond between two ways of telling the time.
    assert request.began - 5_000_000 <= execution.began
    assert execution.ended <= request.ended + 5_000_000


async def test_failing_code_fails_its_spans_and_not_the_request(
    server: Server, collector: Collector
) -> None:
    answer = await execute(server, "raise ValueError('secret-in-the-code')")
    execution = await collector.span("execution", kernelagent_execution_id=answer["execution_id"])
    assert execution.failed
    assert execution.facts["error.type"] == "error"
    (request,) = [span for span in collector.spans if span.id == execution.parent]
    assert not request.failed


async def test_a_kernel_start_belongs_to_the_request_that_waits_for_it(
    server: Server, collector: Collector
) -> None:
    async with client_of(server, traceparent=TRACEPARENT) as client:
        response = await client.post("/sessions", json={"language": "bash"})
        assert response.status_code == 201
        await client.delete(f"/sessions/{response.json()['id']}")
    start = await collector.span("kernel start", kernelagent_language="bash")
    assert start.trace == TRACE
    (request,) = [span for span in collector.spans if span.id == start.parent]
    assert request.name == "POST /sessions"
    assert start.facts["kernelagent.how"] in ("forked", "spawned")


async def test_a_refill_belongs_to_nobody(server: Server, collector: Collector) -> None:
    async with client_of(server) as client:

        async def is_warm() -> bool:
            pool = (await client.get("/health")).json()["pools"]["python"]
            return bool(pool["idle"] and not pool["starting"])

        await until(is_warm)
        began = time.time_ns()
        async with session(server) as session_id:
            await execute(server, "1", session_id=session_id)
            await until(is_warm)

    def starts() -> list[Span]:
        return [
            span
            for span in collector.spans
            if span.name == "kernel start" and span.ended > began and "python" in str(span.facts)
        ]

    async def is_there() -> bool:
        return bool(starts())

    await until(is_there)
    assert {span.parent for span in starts()} == {""}
    assert TRACE not in {span.trace for span in starts()}


async def test_commands_and_jobs(server: Server, collector: Collector) -> None:
    async with client_of(server, traceparent=TRACEPARENT) as client:
        await client.post("/commands/run", json={"command": "exit 3; : secret-in-the-code"})
        job = (await client.post("/execute/background", json={"code": "1"})).json()
    command = await collector.span("command", kernelagent_exit_code=3)
    assert (command.trace, command.failed) == (TRACE, True)
    ended = await collector.span("job", kernelagent_job_id=job["process_id"])
    assert (ended.trace, ended.failed) == (TRACE, False)
    execution = await collector.span("execution", kernelagent_execution_id=job["execution_id"])
    assert execution.trace == TRACE
    assert ended.parent == execution.parent


async def test_jobs_that_wait_keep_their_own_trace(server: Server, collector: Collector) -> None:
    job_id = await start(server, "1")
    await follow(server, job_id)
    ended = await collector.span("job", kernelagent_job_id=job_id)
    assert ended.trace != TRACE
    (request,) = [span for span in collector.spans if span.id == ended.parent]
    assert request.name == "POST /execute/background"
    assert request.parent == ""


async def test_without_a_traceparent_each_request_begins_a_trace(
    server: Server, collector: Collector
) -> None:
    answers = [await run(server, "1") for _ in range(2)]
    traces = {
        (await collector.span("execution", kernelagent_execution_id=answer["execution_id"])).trace
        for answer in answers
    }
    assert len(traces) == 2
    assert TRACE not in traces


async def test_a_caller_that_does_not_sample_is_obeyed(
    server: Server, collector: Collector
) -> None:
    unsampled = "1bf7651916cd43dd8448eb211c80319c"
    async with client_of(server, traceparent=f"00-{unsampled}-{PARENT}-00") as client:
        await client.post("/execute", json={"code": "1"})
    answer = await execute(server, "1")
    await collector.span("execution", kernelagent_execution_id=answer["execution_id"])
    assert unsampled not in {span.trace for span in collector.spans}


async def test_probes_are_not_traced(server: Server, collector: Collector) -> None:
    async with client_of(server) as client:
        for path in ("/health", "/ping", "/metrics/prometheus"):
            await client.get(path)
        await client.get("/info")
    await collector.span("GET /info")
    assert not {span.name for span in collector.spans} & {"GET /health", "GET /ping", "request"}


async def test_nothing_secret_and_no_code_is_sent(server: Server, collector: Collector) -> None:
    answer = await execute(
        server, "'secret-in-the-code'; print('secret-in-the-output')", env={"X": "secret-variable"}
    )
    await collector.span("execution", kernelagent_execution_id=answer["execution_id"])
    async with client_of(server) as client:
        await client.get("/system", params={"token": "secret-in-the-query"})
    await collector.span("GET /system")
    sent = b"".join(collector.bodies)
    assert b"secret" not in sent
    assert server.token.encode() not in sent


async def test_the_resource_is_named(server: Server, collector: Collector) -> None:
    await execute(server, "1")
    await until_any(collector)
    for resource in collector.resources:
        assert resource["service.name"] == "kernelagent"
        assert resource["deployment.environment"] == "test"


async def until_any(collector: Collector) -> None:
    async def there() -> bool:
        return bool(collector.resources)

    await until(there)


# How long the shutdown takes is what it is about.
@pytest.mark.alone
async def test_a_collector_that_is_not_there_hinders_nothing(tmp_path: Path) -> None:
    running = await asyncio.to_thread(
        start_server,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        KERNELAGENT_LOG_LEVEL="error",
        KERNELAGENT_PRELOAD="",
    )
    try:
        assert (await execute(running, "1"))["success"]
    finally:
        began = time.monotonic()
        assert await asyncio.to_thread(running.stop) == 0
    # Three seconds for the last spans, and what the rest of the shutdown takes; OpenTelemetry
    # itself would try for thirty.
    assert time.monotonic() - began < 25


# Hides the SDK as if the extra were not installed, and tells what was imported of it.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


async def test_without_the_extra_a_traceparent_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDE)
    path = f"{tmp_path / 'hidden'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    running = await asyncio.to_thread(
        start_server,
        tmp_path,
        PYTHONPATH=path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        KERNELAGENT_PRELOAD="",
    )
    try:
        assert (await execute(running, "1"))["success"]
    finally:
        assert await asyncio.to_thread(running.stop) == 0


def test_nothing_of_the_sdk_is_imported_without_being_asked_for() -> None:
    code = (
        "import asyncio, sys, tempfile\n"
        "from kernelagent.app import create_app\n"
        "from kernelagent.settings import load_settings\n"
        "home = tempfile.mkdtemp()\n"
        "settings = load_settings(no_auth=True, workspace=home + '/work',\n"
        "    state_dir=home + '/state', pool_idle=0,\n"
        "    fork_server=False)\n"
        "async def main():\n"
        "    app = create_app(settings)\n"
        "    async with app.router.lifespan_context(app):\n"
        "        assert app.state.agent.sandbox.observers._listeners == [\n"
        "            app.state.agent.observability.measurements]\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert printed.stdout == "[]\n"


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ""),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ""),
    ],
)
def test_what_the_environment_asks_for(environ: dict[str, str], wanted: str) -> None:
    assert wanted_exporter(environ) == wanted


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_cannot_be_done_is_told(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert wanted_exporter(environ) == ""
    assert "no traces" in caplog.text
