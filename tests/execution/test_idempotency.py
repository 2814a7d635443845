"""Idempotency-Key on a real server: a repeated request is run once, however its caller left."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from kernelagent.auth.tokens import Authenticator
from kernelagent.settings import load_settings
from tests.execution.clients import round_trips
from tests.runs import NDJSON, client_of, session, session_facts, until_busy
from tests.servers import SECRET, Server, start_server
from tests.waiting import until

KEY = "Idempotency-Key"
REPLAYED = "idempotency-replayed"


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file that the code of `counting` makes longer by a byte whenever it runs."""
    return tmp_path / "runs"


def counting(counter: Path, then: str = "6 * 7") -> str:
    return f"with open({str(counter)!r}, 'a') as f: f.write('x')\n{then}"


def waiting(counter: Path, go: Path, then: str = "6 * 7") -> str:
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
    return counting(counter, wait + then)


def runs(counter: Path) -> int:
    return counter.stat().st_size if counter.exists() else 0


async def until_begun(counter: Path) -> None:
    async def has_begun() -> bool:
        return runs(counter) > 0

    await until(has_begun)


async def post(
    server: Server, key: str, code: str, *, path: str = "/execute", **fields: Any
) -> httpx.Response:
    async with client_of(server) as client:
        return await client.post(path, json={"code": code, **fields}, headers={KEY: key})


async def post_and_drop(server: Server, key: str, counter: Path, body: dict[str, Any]) -> None:
    """Send a request, and cut the connection once its code runs."""
    host, port = server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    content = httpx.Request("POST", server.url, json=body).content
    head = (
        f"POST /execute HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n"
        f"{KEY}: {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    await until_begun(counter)
    writer.transport.abort()


@pytest.mark.parametrize("path", ["/execute", "/execute/rich", "/execute/ipython"])
async def test_a_repeat_gets_the_very_same_answer(
    server: Server, key: str, counter: Path, path: str
) -> None:
    code = counting(counter)
    first = await post(server, key, code, path=path)
    second = await post(server, key, code, path=path)

    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["result"] == "42"
    assert ("outputs" in first.json()) == (path == "/execute/rich")
    assert second.content == first.content
    assert REPLAYED not in first.headers
    assert second.headers[REPLAYED] == "true"
    assert second.headers["content-type"] == "application/json"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert runs(counter) == 1


async def test_a_retry_after_a_dropped_connection_runs_nothing_again(
    server: Server, key: str, counter: Path, tmp_path: Path
) -> None:
    code = waiting(counter, tmp_path / "go")
    await post_and_drop(server, key, counter, {"code": code})
    retry = asyncio.create_task(post(server, key, code))
    await round_trips(server)
    assert not retry.done()
    (tmp_path / "go").touch()

    response = await retry
    assert (response.json()["result"], response.json()["success"]) == ("42", True)
    assert response.headers[REPLAYED] == "true"
    assert (await post(server, key, code)).content == response.content
    assert runs(counter) == 1


async def test_a_retry_after_the_end_gets_the_answer_that_nobody_read(
    server: Server, key: str, counter: Path, tmp_path: Path
) -> None:
    async with session(server) as session_id:
        body = {"code": waiting(counter, tmp_path / "go"), "session_id": session_id}
        await post_and_drop(server, key, counter, body)
        await round_trips(server)
        (tmp_path / "go").touch()

        async def has_ended() -> bool:
            return bool((await session_facts(server, session_id))["transcript"])

        await until(has_ended)
        response = await post(server, key, **body)

    assert (response.json()["result"], runs(counter)) == ("42", 1)
    assert response.headers[REPLAYED] == "true"


async def test_callers_at_the_same_time_share_one_run(
    server: Server, key: str, counter: Path
) -> None:
    code = counting(counter, "import time; time.sleep(0.3)")
    responses = await asyncio.gather(*(post(server, key, code) for _ in range(10)))

    assert runs(counter) == 1
    assert len({response.content for response in responses}) == 1
    assert sum(REPLAYED in response.headers for response in responses) == 9


async def test_without_a_key_nothing_is_joined(server: Server, counter: Path) -> None:
    async with client_of(server) as client:
        for _ in range(2):
            response = await client.post("/execute", json={"code": counting(counter)})
            assert REPLAYED not in response.headers
    assert runs(counter) == 2


async def test_another_body_is_a_conflict(server: Server, key: str, counter: Path) -> None:
    code = counting(counter)
    await post(server, key, code)
    others: list[dict[str, Any]] = [{"timeout": 5}, {"env": {}}]
    for fields in others:
        response = await post(server, key, code, **fields)
        assert (response.status_code, response.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")

    assert runs(counter) == 1


async def test_keys_belong_to_a_path_and_a_subject(
    server: Server, key: str, counter: Path, tmp_path: Path
) -> None:
    code = counting(counter)
    settings = load_settings(state_dir=tmp_path / "state", jwt_secret=SECRET)
    await post(server, key, code)
    await post(server, key, code, path="/execute/rich")
    assert runs(counter) == 2

    authenticator = Authenticator.from_settings(settings)
    own = authenticator.verify(server.token).subject
    for subject, wanted in (("someone else", 3), (own, 3)):
        token, _ = authenticator.issue(subject=subject)
        async with client_of(server, Authorization=f"Bearer {token}") as client:
            response = await client.post("/execute", json={"code": code}, headers={KEY: key})
        assert response.status_code == 200
        assert runs(counter) == wanted


async def test_failing_code_is_an_answer_that_is_repeated(
    server: Server, key: str, counter: Path
) -> None:
    code = counting(counter, "1/0")
    first = await post(server, key, code)
    second = await post(server, key, code)

    assert first.json()["error"]["ename"] == "ZeroDivisionError"
    assert (second.content, runs(counter)) == (first.content, 1)


async def test_what_was_not_run_is_tried_anew(
    server: Server, key: str, counter: Path, tmp_path: Path
) -> None:
    code = counting(counter)
    folder = tmp_path / "later"
    fields = {"workdir": str(folder)}
    response = await post(server, key, code, **fields)
    assert (response.status_code, response.json()["code"]) == (400, "DIRECTORY_NOT_FOUND")
    folder.mkdir()

    response = await post(server, key, code, **fields)

    assert (response.status_code, runs(counter)) == (200, 1)
    assert REPLAYED not in response.headers


async def test_a_bad_body_does_not_use_up_the_key(server: Server, key: str) -> None:
    async with client_of(server) as client:
        for content in (b"", b"[1]", b'{"code": 1}'):
            response = await client.post("/execute", content=content, headers={KEY: key})
            assert response.status_code == 400
    assert (await post(server, key, "1")).status_code == 200


async def test_a_caller_that_wants_its_run_interrupted_stops_it_by_leaving(
    server: Server, key: str, counter: Path
) -> None:
    async with session(server) as session_id:
        body: dict[str, Any] = {
            "code": counting(counter, "import time; time.sleep(60)"),
            "session_id": session_id,
            "timeout": 90,
            "on_disconnect": "interrupt",
        }
        await post_and_drop(server, key, counter, body)

        async def has_ended() -> bool:
            return bool((await session_facts(server, session_id))["transcript"])

        await until(has_ended)
        facts = await session_facts(server, session_id)
        response = await post(server, key, **body)

    assert [entry["outcome"] for entry in facts["transcript"]] == ["cancelled"]
    # What it did until then must not be done twice.
    assert (response.status_code, response.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert runs(counter) == 1


async def test_a_run_to_be_interrupted_goes_on_while_one_caller_waits(
    server: Server, key: str, counter: Path, tmp_path: Path
) -> None:
    async with session(server) as session_id:
        body: dict[str, Any] = {
            "code": waiting(counter, tmp_path / "go"),
            "session_id": session_id,
            "on_disconnect": "interrupt",
        }
        first = asyncio.create_task(post(server, key, **body))
        await until_busy(server, session_id)
        await until_begun(counter)
        second = asyncio.create_task(post(server, key, **body))
        await round_trips(server)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await round_trips(server)
        (tmp_path / "go").touch()
        response = await second

    assert (response.json()["result"], runs(counter)) == ("42", 1)


async def test_a_cached_run_can_be_repeated(server: Server, key: str, counter: Path) -> None:
    code = counting(counter)
    fields: dict[str, Any] = {"isolated": True, "cache": True}
    answers = [await post(server, name, code, **fields) for name in (key, key, f"{key}-2")]

    assert [answer.json()["cached"] for answer in answers] == [False, False, True]
    assert [REPLAYED in answer.headers for answer in answers] == [False, True, False]
    assert runs(counter) == 1


@pytest.mark.parametrize("bad", [b"", b"x" * 256, b"a\x80b", "ä".encode()])
async def test_a_bad_key_is_refused(server: Server, bad: bytes, counter: Path) -> None:
    async with client_of(server) as client:
        response = await client.post(
            "/execute", json={"code": counting(counter)}, headers=[(KEY.encode(), bad)]
        )
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")
    assert runs(counter) == 0


async def test_two_keys_are_refused(server: Server) -> None:
    async with client_of(server) as client:
        response = await client.post(
            "/execute", json={"code": "1"}, headers=[(KEY, "a"), (KEY, "b")]
        )
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")


async def test_streams_cannot_be_repeated(server: Server, key: str) -> None:
    async with client_of(server, Accept=NDJSON) as client:
        response = await client.post("/execute", json={"code": "1"}, headers={KEY: key})
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")

    with pytest.raises(InvalidStatus) as caught:
        await connect(
            f"{server.websocket_url}/stream", additional_headers={**server.headers, KEY: key}
        )
    assert caught.value.response.status_code == 400
    assert json.loads(caught.value.response.body or b"")["code"] == "INVALID_REQUEST"


async def test_a_server_that_ends_leaves_no_run_behind(
    key: str, counter: Path, tmp_path: Path
) -> None:
    server = start_server(tmp_path, KERNELAGENT_PRELOAD="")
    try:
        code = counting(counter, "import time; time.sleep(100)")
        await post_and_drop(server, key, counter, {"code": code, "timeout": 120})
        other = {"code": waiting(tmp_path / "other", tmp_path / "never"), "timeout": 120}
        cached = {"isolated": True, "cache": True, "on_disconnect": "continue"}
        await post_and_drop(server, key + "2", tmp_path / "other", {**other, **cached})
    finally:
        status = await asyncio.to_thread(server.stop)
    assert status == 0
