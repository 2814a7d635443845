"""What bad requests get: the status, the code, one shape, and never 422 or 5xx."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from kernelagent.auth.tokens import Authenticator
from tests.runs import client_of, refused, run, session, session_facts, until_busy
from tests.servers import SECRET, Server, Service, serving_in_process

JSON = {"Content-Type": "application/json"}
BODY_LIMIT = 100_000


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with low limits."""
    root = tmp_path_factory.mktemp("strict")
    with serving_in_process(
        root, queue_limit=3, max_sessions=3, max_body_bytes=BODY_LIMIT, preload=()
    ) as running:
        yield running


def check_shape(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an error; every client finds in it what it reads."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code, body
    assert isinstance(body["error"], str)
    assert body["error"]
    assert body["message"] == body["error"]
    assert isinstance(body["details"], dict)
    assert body["request_id"] == response.headers["x-request-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["timestamp"])
    assert "detail" not in body
    check_wording(body)
    return body


def check_wording(body: dict[str, Any]) -> None:
    """A published client takes some words for an expired sandbox or a missing file."""
    assert "not found" not in body["message"].lower()


BAD_BODIES = [
    (b"", "INVALID_JSON"),
    (b"{", "INVALID_JSON"),
    (b"[1]", "INVALID_JSON"),
    (b"null", "INVALID_JSON"),
    (b'"code"', "INVALID_JSON"),
    (b"1", "INVALID_JSON"),
    (b"\xff\xfe\x00", "INVALID_JSON"),
    (b'{"code": "\xff"}', "INVALID_JSON"),
    (b'{"code": "1"} x', "INVALID_JSON"),
    (b'{"code": "\\ud800"}', "INVALID_JSON"),
    (b"[" * 90_000, "INVALID_JSON"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "INVALID_JSON"),
    (b'{"code": "1", "timeout": NaN}', "INVALID_JSON"),
    (b'{"code": "1", "timeout": Infinity}', "INVALID_JSON"),
    (b'{"code": "1", "timeout": 1' + b"0" * 5000 + b"}", "INVALID_JSON"),
    (b"{}", "MISSING_PARAMETER"),
    (b'{"code": null}', "MISSING_PARAMETER"),
    (b'{"Code": "1"}', "MISSING_PARAMETER"),
    (b'{"code": 1}', "INVALID_REQUEST"),
    (b'{"code": ["1"]}', "INVALID_REQUEST"),
    (b'{"code": "1", "language": "cobol"}', "INVALID_REQUEST"),
    (b'{"code": "1", "language": 3}', "INVALID_REQUEST"),
    (b'{"code": "1", "timeout": 0}', "INVALID_REQUEST"),
    (b'{"code": "1", "timeout": -1}', "INVALID_REQUEST"),
    (b'{"code": "1", "timeout": "soon"}', "INVALID_REQUEST"),
    (b'{"code": "1", "timeout": []}', "INVALID_REQUEST"),
    (b'{"code": "1", "queue_timeout": 0}', "INVALID_REQUEST"),
    (b'{"code": "1", "request_timeout": -5}', "INVALID_REQUEST"),
    (b'{"code": "1", "max_output_bytes": 1}', "INVALID_REQUEST"),
    (b'{"code": "1", "max_output_bytes": 2000.5}', "INVALID_REQUEST"),
    (b'{"code": "1", "on_disconnect": "explode"}', "INVALID_REQUEST"),
    (b'{"code": "1", "isolated": "perhaps"}', "INVALID_REQUEST"),
    (b'{"code": "1", "isolated": true, "session_id": "x"}', "INVALID_REQUEST"),
    (b'{"code": "1", "workdir": 5}', "INVALID_REQUEST"),
    (b'{"code": "1", "workdir": "a\\u0000b"}', "INVALID_REQUEST"),
    (b'{"code": "1", "workdir": "/no/such/directory"}', "DIRECTORY_NOT_FOUND"),
    (b'{"code": "1", "workdir": "/etc/passwd"}', "DIRECTORY_NOT_FOUND"),
    (b'{"code": "1", "workdir": "/etc/passwd/x"}', "DIRECTORY_NOT_FOUND"),
    (b'{"code": "1", "workdir": "~nobody-has-this-name/x"}', "DIRECTORY_NOT_FOUND"),
    (b'{"code": "1", "workdir": "' + b"x" * 5000 + b'"}', "DIRECTORY_NOT_FOUND"),
    (b'{"code": "1", "env": []}', "INVALID_REQUEST"),
    (b'{"code": "1", "env": {"A": 1}}', "INVALID_REQUEST"),
    (b'{"code": "1", "env": {"A": null}}', "INVALID_REQUEST"),
    (b'{"code": "1", "env": {"": "1"}}', "INVALID_REQUEST"),
    (b'{"code": "1", "env": {"A=B": "1"}}', "INVALID_REQUEST"),
    (b'{"code": "1", "env": {"A\\u0000": "1"}}', "INVALID_REQUEST"),
    (b'{"code": "1", "env": {"A": "\\u0000"}}', "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES, ids=lambda value: str(value)[:50])
async def test_bad_body_is_answered_with_400(server: Server, body: bytes, code: str) -> None:
    async with client_of(server) as client:
        for path in ("/execute", "/execute/rich"):
            response = await client.post(path, content=body, headers=JSON)

            check_shape(response, 400, code)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_bad_request_for_a_stream_is_answered_with_400_too(
    server: Server, accept: str
) -> None:
    async with client_of(server, Accept=accept) as client:
        missing = await client.post("/execute", json={})
        directory = await client.post("/execute", json={"code": "1", "workdir": "/no/such"})
        unknown = await client.post("/execute", json={"code": "1", "session_id": "unknown"})

    check_shape(missing, 400, "MISSING_PARAMETER")
    check_shape(directory, 400, "DIRECTORY_NOT_FOUND")
    check_shape(unknown, 404, "SESSION_NOT_FOUND")


async def test_validation_names_the_field_and_does_not_repeat_what_was_sent(
    server: Server,
) -> None:
    async with client_of(server) as client:
        response = await client.post(
            "/execute", json={"code": ["secret code"], "timeout": "soon", "env": {"A": ["hidden"]}}
        )

    body = check_shape(response, 400, "INVALID_REQUEST")
    fields = [error["field"] for error in body["details"]["errors"]]
    assert fields == ["code", "timeout", "env.A"]
    assert "secret" not in response.text
    assert "hidden" not in response.text


@pytest.mark.parametrize("language", ["algol", "ALGOL"])
async def test_language_without_kernel_says_so(server: Server, language: str) -> None:
    async with client_of(server) as client:
        response = await client.post("/execute", json={"code": "1", "language": language})
        listed = (await client.get("/info")).json()["languages"]

    body = check_shape(response, 400, "LANGUAGE_NOT_AVAILABLE")
    assert body["details"]["language"] in body["message"]
    assert "/no/such/algol, which runs it, is not installed" in body["message"]
    told = next(item for item in listed if item["name"] == "algol")
    assert (told["available"], told["missing"]) == (False, body["details"]["how"])


async def test_session_of_another_language_says_which_it_runs(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        body = {"code": "1", "language": "go", "session_id": session_id}
        response = await client.post("/execute", json=body)

    assert check_shape(response, 400, "INVALID_REQUEST")["details"] == {"language": "python"}


async def test_content_type_does_not_matter(server: Server) -> None:
    async with client_of(server) as client:
        response = await client.post(
            "/execute", content=b'{"code": "1 + 1"}', headers={"Content-Type": "text/plain"}
        )

    assert response.json()["result"] == "2"


# 401 and 403


def token(**claims: Any) -> str:
    good = {"sandbox_id": "local", "exp": 4_000_000_000, "jti": "x"}
    return jwt.encode(good | claims, SECRET, algorithm="HS256")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": "Basic YTpi"}, 401, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": "Bearer nonsense"}, 401, "TOKEN_INVALID"),
        ({"Authorization": f"Bearer {token(exp=1_000_000_000)}"}, 401, "TOKEN_EXPIRED"),
        ({"Authorization": f"Bearer {token(sandbox_id='other')}"}, 403, "ACCESS_DENIED"),
        ({"Authorization": f"Bearer {token(scope='files')}"}, 403, "ACCESS_DENIED"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_requests_without_a_good_token_are_refused(
    server: Server, headers: dict[str, str], status: int, code: str
) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        for path in ("/execute", "/execute/rich", "/execute/ipython"):
            response = await client.post(path, json={"code": "1"}, headers=headers)

            check_shape(response, status, code)
        check_shape(await client.get("/sessions", headers=headers), status, code)


async def test_token_counts_before_the_body(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        for path in ("/execute", "/sessions", "/sessions/default/complete"):
            response = await client.post(path, content=b"{", headers=JSON)

            check_shape(response, 401, "AUTHENTICATION_REQUIRED")


async def test_token_in_the_spare_header(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        response = await client.post(
            "/execute", json={"code": "1"}, headers={"X-Kernelagent-Token": server.token}
        )

    assert response.status_code == 200


async def test_token_with_another_scope_than_sessions(server: Server) -> None:
    headers = {"Authorization": f"Bearer {token(scope='execute')}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        executed = await client.post("/execute", json={"code": "1"})
        listed = await client.get("/sessions")

    assert executed.status_code == 200
    assert check_shape(listed, 403, "ACCESS_DENIED")["details"] == {"required_scope": "sessions"}


async def test_issued_tokens_all_stay_good(server: Server) -> None:
    issuer = Authenticator(sandbox_id="local", secret=SECRET.encode())
    tokens = [issuer.issue()[0] for _ in range(3)]

    assert len(set(tokens)) == 3
    async with httpx.AsyncClient(base_url=server.url) as client:
        for one in [*tokens, *tokens]:
            response = await client.get("/sessions", headers={"Authorization": f"Bearer {one}"})
            assert response.status_code == 200


# 404 and 405


async def test_unknown_session(server: Server) -> None:
    async with client_of(server) as client:
        response = await client.post("/execute", json={"code": "1", "session_id": "unknown"})

    body = check_shape(response, 404, "SESSION_NOT_FOUND")
    assert body["details"] == {"session_id": "unknown"}


@pytest.mark.parametrize("session_id", ["sandbox not found", "Sandbox: NOT FOUND"])
async def test_unknown_session_with_a_treacherous_name(server: Server, session_id: str) -> None:
    async with client_of(server) as client:
        executed = await client.post("/execute", json={"code": "1", "session_id": session_id})
        asked = await client.get(f"/sessions/{session_id}")

    check_shape(executed, 404, "SESSION_NOT_FOUND")
    check_shape(asked, 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize(
    "path", ["/nothing", "/execute/", "/sessions/a/b/c", "/sandbox/not%20found", "/%ff%00"]
)
async def test_unknown_route_is_404_without_a_redirect(server: Server, path: str) -> None:
    async with client_of(server) as client:
        response = await client.post(path, json={"code": "1"})

    check_shape(response, 404, "ROUTE_NOT_FOUND")


async def test_wrong_method(server: Server) -> None:
    async with client_of(server) as client:
        response = await client.get("/execute")

    check_shape(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"


# 409


WAIT = "import pathlib, time\nwhile not pathlib.Path('{}').exists(): time.sleep(0.01)"


async def test_full_queue_tells_position_and_limit(strict_server: Service) -> None:
    async with session(strict_server) as session_id, client_of(strict_server) as client:
        runs = [asyncio.create_task(run(strict_server, WAIT.format("go"), session_id=session_id))]
        await until_busy(strict_server, session_id)
        for number in range(3):
            runs.append(asyncio.create_task(run(strict_server, str(number), session_id=session_id)))
            await until_busy(strict_server, session_id, queued=number + 1)

        body = {"code": "made = 1", "session_id": session_id}
        plain = await client.post("/execute", json=body)
        stream = await client.post(
            "/execute", json=body, headers={"Accept": "application/x-ndjson"}
        )
        (strict_server.workspace / "go").touch()
        answers = await asyncio.gather(*runs)
        (strict_server.workspace / "go").unlink()
        made = await run(strict_server, "'made' in dir()", session_id=session_id)

    for response in (plain, stream):
        refusal = check_shape(response, 409, "QUEUE_FULL")
        assert refusal["details"] == {"position": 4, "limit": 3}
    assert [answer["outcome"] for answer in answers] == ["ok"] * 4
    assert made["result"] == "False"


async def test_queue_timeout_means_that_the_code_was_not_run(server: Server) -> None:
    async with session(server) as session_id:
        first = asyncio.create_task(run(server, WAIT.format("on"), session_id=session_id))
        await until_busy(server, session_id)

        body = await refused(server, 409, "made = 1", session_id=session_id, queue_timeout=0.2)
        facts = await session_facts(server, session_id)
        (server.workspace / "on").touch()
        await first
        (server.workspace / "on").unlink()
        made = await run(server, "'made' in dir()", session_id=session_id)

    assert body["code"] == "QUEUE_TIMEOUT"
    assert body["details"] == {"queue_timeout": 0.2}
    assert "was not run" in body["message"]
    assert facts["queued"] == 0
    assert made["result"] == "False"


async def test_session_limit_holds_for_isolated_runs_and_sessions(strict_server: Service) -> None:
    async with session(strict_server), session(strict_server), client_of(strict_server) as client:
        await run(strict_server, "1")

        isolated = await client.post("/execute", json={"code": "1", "isolated": True})
        created = await client.post("/sessions", json={})

    for response in (isolated, created):
        body = check_shape(response, 409, "SESSION_LIMIT")
        assert body["details"]["limit"] == 3


async def test_run_in_a_session_that_is_closed_meanwhile(server: Server) -> None:
    async with session(server) as session_id:
        runs = [asyncio.create_task(run(server, WAIT.format("no"), session_id=session_id))]
        await until_busy(server, session_id)
        runs.append(asyncio.create_task(run(server, "1", session_id=session_id)))
        await until_busy(server, session_id, queued=1)

        async with client_of(server) as client:
            await client.delete(f"/sessions/{session_id}")
        answers = await asyncio.gather(*runs)

    assert [answer["outcome"] for answer in answers] == ["cancelled", "cancelled"]
    assert "was not run" in answers[1]["stderr"]
    assert not any(answer["success"] for answer in answers)


# 413


async def test_announced_body_over_the_limit_is_refused(strict_server: Service) -> None:
    async with client_of(strict_server) as client:
        response = await client.post("/execute", json={"code": "x" * BODY_LIMIT})

    assert check_shape(response, 413, "BODY_TOO_LARGE")["details"] == {"limit": BODY_LIMIT}


async def test_chunked_body_over_the_limit_is_refused(strict_server: Service) -> None:
    async def chunks() -> Any:
        for _ in range(30):
            yield b"x" * (BODY_LIMIT // 10)

    async with client_of(strict_server) as client:
        executed = await client.post("/execute", content=chunks(), headers=JSON)
        created = await client.post("/sessions", content=chunks(), headers=JSON)

    check_shape(executed, 413, "BODY_TOO_LARGE")
    check_shape(created, 413, "BODY_TOO_LARGE")


async def test_body_at_the_limit_is_accepted(strict_server: Service) -> None:
    body = json.dumps({"code": ""})
    body = json.dumps({"code": "#" * (BODY_LIMIT - len(body))})

    async with client_of(strict_server) as client:
        response = await client.post("/execute", content=body)

    assert response.status_code == 200


# The request id


async def test_request_id_is_on_every_answer(server: Server) -> None:
    async with client_of(server) as client:
        answers = [
            await client.get("/health"),
            await client.get("/nothing"),
            await client.put("/execute"),
            await client.post("/execute", content=b"{"),
            await client.post("/execute", json={"code": "1"}),
            await client.post(
                "/execute", json={"code": "1"}, headers={"Accept": "text/event-stream"}
            ),
            await client.get("/sessions/unknown"),
            await client.get("/sessions", headers={"Authorization": "none"}),
        ]

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(answers)


async def test_request_id_of_the_client_comes_back(server: Server) -> None:
    async with client_of(server) as client:
        mine = {"X-Request-ID": "my-id.1"}
        fine = await client.post("/execute", json={"code": "1"}, headers=mine)
        bad = await client.post("/execute", json={}, headers=mine)

    assert fine.headers["x-request-id"] == "my-id.1"
    assert bad.json()["request_id"] == bad.headers["x-request-id"] == "my-id.1"
