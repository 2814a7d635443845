"""The access log of a real server: ids, subject, template of the route; never a token or code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import websockets

from kernelagent.auth.tokens import Authenticator
from kernelagent.settings import load_settings
from kernelagent.web.middleware import trace_of
from tests.runs import client_of, run, session
from tests.servers import SECRET, Server, serving
from tests.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@dataclass
class Logged:
    """A server whose log is read."""

    server: Server

    @property
    def lines(self) -> list[str]:
        """What it has written so far, but for a line that is not whole."""
        return self.server.stderr.split("\n")[:-1]

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """The JSON lines with these fields."""
        found = [json.loads(line) for line in self.lines]
        return [line for line in found if wanted.items() <= line.items()]

    async def record(self, **wanted: Any) -> dict[str, Any]:
        """The one line with these fields, once it is there."""

        async def written() -> bool:
            return bool(self.records(**wanted))

        await until(written)
        (record,) = self.records(**wanted)
        return record


Start = Callable[[str], Logged]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a server whose log is read, in one format or the other."""
    with contextlib.ExitStack() as stack:

        def begin(log_format: str) -> Logged:
            root = tmp_path_factory.mktemp("log")
            settings = {
                "KERNELAGENT_LOG_LEVEL": "info",
                "KERNELAGENT_LOG_FORMAT": log_format,
                "KERNELAGENT_PRELOAD": "",
            }
            server = stack.enter_context(serving(root, **settings))
            options = load_settings(jwt_secret=SECRET)
            token, _ = Authenticator.from_settings(options).issue(subject="agent-7")
            return Logged(replace(server, token=token))

        yield begin


@pytest.fixture(scope="module")
def logged(start: Start) -> Logged:
    return start("json")


async def ask(logged: Logged, method: str, path: str, request_id: str, **options: Any) -> Any:
    async with client_of(logged.server, **{"X-Request-ID": request_id}) as client:
        return (await client.request(method, path, **options)).json()


async def test_a_run_is_logged_with_all_its_ids(logged: Logged) -> None:
    code = {"code": "'code-that-is-not-logged'"}
    answer = await ask(
        logged, "POST", "/execute", "run-1", json=code, headers={"traceparent": TRACEPARENT}
    )
    line = await logged.record(event="request", request_id="run-1")
    assert line["logger"] == "kernelagent.access"
    assert line["execution_id"] == answer["execution_id"]
    assert line["session_id"] == "default-python"
    assert line["trace_id"] == TRACE
    assert line["subject"] == "agent-7"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/execute", 200)
    assert 0 < line["duration_ms"] < 60_000
    # What the session's own task has logged belongs to the same request.
    finished = await logged.record(event="run finished", execution_id=answer["execution_id"])
    assert (finished["request_id"], finished["trace_id"]) == ("run-1", TRACE)
    assert "not-logged" not in "".join(logged.lines)


async def test_each_run_of_a_session_is_logged_for_its_own_request(logged: Logged) -> None:
    async with session(logged.server) as session_id:
        for name in ("first", "second"):
            body = {"code": "1", "session_id": session_id}
            answer = await ask(logged, "POST", "/execute", f"own-{name}", json=body)
            line = await logged.record(event="run finished", execution_id=answer["execution_id"])
            assert line["request_id"] == f"own-{name}"
            assert "trace_id" not in line


async def test_commands_and_jobs_are_logged_with_their_ids(logged: Logged) -> None:
    await ask(logged, "POST", "/commands/run", "cmd-1", json={"command": "echo not-logged-either"})
    line = await logged.record(event="request", request_id="cmd-1")
    assert line["command_id"].startswith("cmd_")
    job = await ask(logged, "POST", "/execute/background", "job-1", json={"code": "1"})
    line = await logged.record(event="request", request_id="job-1")
    assert line["job_id"] == job["process_id"]
    assert line["execution_id"] == job["execution_id"]
    ended = await logged.record(event="job ended", job_id=job["process_id"])
    assert ended["request_id"] == "job-1"
    assert "not-logged" not in "".join(logged.lines)


async def test_the_route_is_a_template_and_a_refusal_has_no_subject(logged: Logged) -> None:
    await ask(logged, "GET", "/sessions/some", "template-1")
    line = await logged.record(event="request", request_id="template-1")
    assert (line["route"], line["path"]) == ("/sessions/{session_id}", "/sessions/some")
    async with httpx.AsyncClient(base_url=logged.server.url) as client:
        await client.get("/sessions/some", headers={"X-Request-ID": "stranger"})
    line = await logged.record(event="request", request_id="stranger")
    assert line["status"] == 401
    assert "subject" not in line


async def test_a_token_in_a_query_is_not_logged(logged: Logged) -> None:
    token = logged.server.token
    url = f"{logged.server.websocket_url}/stream?token={token}"
    async with websockets.connect(url, proxy=None):
        pass
    async with httpx.AsyncClient(base_url=logged.server.url) as client:
        await client.get("/health", params={"token": token}, headers={"X-Request-ID": "query"})
    await logged.record(event="request", request_id="query")
    line = await logged.record(event="request", route="/stream")
    assert (line["method"], line["status"], line["subject"]) == ("WEBSOCKET", 101, "agent-7")
    assert token not in "".join(logged.lines)
    assert "token=" not in str(logged.records(logger="kernelagent.access"))


async def test_text_for_people(start: Start) -> None:
    logged = start("text")
    await run(logged.server, "1")

    def written() -> list[str]:
        return [line for line in logged.lines if "route=/execute" in line]

    await until(written)
    (line,) = written()
    assert "kernelagent.access" in line
    for part in (" INFO ", "request_id=", "execution_id=exec_", "subject=agent-7", "status=200"):
        assert part in line


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331",
        f"00-{TRACE}-b7ad6b7169203331-01x",
        f"00-{TRACE[1:]}-b7ad6b7169203331-01",
    ],
)
def test_a_bad_traceparent_is_none(value: str) -> None:
    assert trace_of(value.encode()) is None


def test_a_traceparent_of_a_later_version_is_read() -> None:
    assert trace_of(TRACEPARENT.encode()) == TRACE
    assert trace_of(f"cc-{TRACE}-b7ad6b7169203331-01-what-follows".encode()) == TRACE
