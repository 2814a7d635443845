"""What it costs to measure: a run that is counted and timed, and a scrape with 50 kernels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import orjson
import uvloop

from bench.findings import OURS, Findings, Plan
from bench.samples import Samples
from bench.scenarios.variants import expect
from bench.servers import Server, our_server, temporary_home
from kernelagent.app import create_app
from kernelagent.auth.tokens import Authenticator
from kernelagent.observability.service import ObservabilityService
from kernelagent.observers import Event, RequestBegan, RequestEnded, RunEnded
from kernelagent.sessions.engine import Engine
from kernelagent.settings import load_settings

_RUN = "POST /execute `1`, in process"
_UNMEASURED = "nobody listens"
_TELLING = "what the listeners take of it"
_SCRAPE = "a scrape with 50 kernels"
_AGAIN = "the same within two seconds"
_QUIET = "/health with 50 kernels"
_SCRAPED = "the same during a scrape"

_TELLING_LIMIT_US = 50.0
_SCRAPE_LIMIT_MS = 10.0
_KERNELS = 50
_REPEATS = 200
# For so long a look at the kernels' memory is good.
_LOOK_LIFE = 2.1


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    say(_RUN)
    uvloop.run(_measure_runs(plan, findings))
    say(_SCRAPE)
    with our_server() as server:
        _measure_scrapes(plan, findings, server)
    return findings


async def _measure_runs(plan: Plan, findings: Findings) -> None:
    """Real requests and real kernels; only the network is left out, which would hide it."""
    with temporary_home() as home:
        settings = load_settings(
            workspace=home / "workspace",
            state_dir=home / "state",
            runtime_dir=home / "run",
            jwt_secret="x" * 32,
        )
        token, _ = Authenticator.from_settings(settings).issue()
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            engine: Engine = app.state.agent.engine
            service: ObservabilityService = app.state.agent.observability
            heard: list[Event] = []
            engine.sandbox.observers.add(heard.append)
            await _execute(app, token)
            engine.sandbox.observers.remove(heard.append)
            # The path of success, and everything of it, or there is nothing to be measured.
            expect(
                [RequestBegan, RunEnded, RequestEnded],
                [type(event) for event in heard if not _is_start(event)],
            )
            samples = {OURS: Samples(), _UNMEASURED: Samples()}
            for number in range(2 * plan.rounds(500, 20)):
                listens = number % 2 == 0
                if not listens:
                    engine.sandbox.observers.remove(service.measurements)
                samples[OURS if listens else _UNMEASURED].values.append(await _execute(app, token))
                if not listens:
                    engine.sandbox.observers.add(service.measurements)
            findings.add(_RUN, "ms", {name: got.scaled(1000) for name, got in samples.items()})
            telling = Samples()
            for _ in range(plan.rounds(200, 20)):
                started = time.perf_counter()
                for _ in range(_REPEATS):
                    for event in heard:
                        engine.sandbox.observers.tell(event)
                telling.values.append((time.perf_counter() - started) / _REPEATS)
            findings.add(_TELLING, "us", {OURS: telling.scaled(1e6)})
            findings.expect_below(_TELLING, _TELLING_LIMIT_US)


def _is_start(event: Event) -> bool:
    return type(event).__name__ == "KernelStarted"


async def _execute(app: Any, token: str) -> float:
    """Seconds of a run that succeeds."""
    body = b'{"code": "1"}'
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()
        raise AssertionError("nobody leaves")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/execute",
        "query_string": b"",
        "headers": [
            (b"authorization", f"Bearer {token}".encode()),
            (b"content-length", str(len(body)).encode()),
        ],
    }
    started = time.perf_counter()
    await app(scope, receive, send)
    seconds = time.perf_counter() - started
    expect(200, sent[0]["status"])
    answer = orjson.loads(sent[1]["body"])
    expect((True, "1"), (answer["success"], answer["result"]))
    return seconds


def _measure_scrapes(plan: Plan, findings: Findings, server: Server) -> None:
    client = server.client()
    for _ in range(_KERNELS):
        session = client.request("POST", "/sessions", {})
        client.request("POST", "/execute", {"code": "1", "session_id": session["id"]})
    connection = HTTPConnection("127.0.0.1", server.port)
    fresh, again = Samples(), Samples()
    for _ in range(plan.rounds(20, 3)):
        time.sleep(_LOOK_LIFE)
        fresh.values.append(_get(server, connection, "/metrics/prometheus"))
        again.values.append(_get(server, connection, "/metrics/prometheus"))
    findings.add(_SCRAPE, "ms", {OURS: fresh.scaled(1000)})
    findings.add(_AGAIN, "ms", {OURS: again.scaled(1000)})
    findings.expect_below(_SCRAPE, _SCRAPE_LIMIT_MS)
    probe = HTTPConnection("127.0.0.1", server.port)
    rounds = plan.rounds(200, 20)
    quiet = Samples([_get(server, probe, "/health") for _ in range(rounds)])
    findings.add(_QUIET, "ms", {OURS: quiet.scaled(1000)})
    scraped = Samples()
    for _ in range(rounds):
        _ask(server, connection, "/metrics/prometheus")
        scraped.values.append(_get(server, probe, "/health"))
        connection.getresponse().read()
    findings.add(_SCRAPED, "ms", {OURS: scraped.scaled(1000)})
    client.close()
    connection.close()
    probe.close()


def _get(server: Server, connection: HTTPConnection, path: str) -> float:
    started = time.perf_counter()
    _ask(server, connection, path)
    response = connection.getresponse()
    response.read()
    seconds = time.perf_counter() - started
    expect(200, response.status)
    return seconds


def _ask(server: Server, connection: HTTPConnection, path: str) -> None:
    connection.request("GET", path, headers={"Authorization": f"Bearer {server.token}"})
