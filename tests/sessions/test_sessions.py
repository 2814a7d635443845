"""/sessions and /jupyter/sessions: made, listed, ended; their directory and environment."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server
from tests.sessions.branching import SLEEP, refusal

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


# Made, listed, ended


async def test_new_session_is_ready_and_told_in_full(server: Server) -> None:
    async with client_of(server) as client:
        response = await client.post("/sessions", json={"name": "A label"})
        made = response.json()
        await client.delete(f"/sessions/{made['id']}")

    assert response.status_code == 201
    assert re.fullmatch(r"[0-9a-f]{16}", made["id"])
    assert made["language"] == "python"
    assert made["name"] == "A label"
    assert made["is_default"] is False
    assert made["state"] == "idle"
    assert made["generation"] == 1
    assert made["workdir"] == str(server.workspace)
    assert made["queued"] == 0
    assert made["queue_limit"] == 100
    assert made["executions"] == 0
    assert made["idle_timeout"] == 3600
    assert made["transcript"] == []
    assert isinstance(made["pid"], int)
    assert made["kernel_id"]
    assert TIMESTAMP.fullmatch(made["created_at"])
    assert TIMESTAMP.fullmatch(made["last_activity"])


@pytest.mark.parametrize("content", [b"", b"{}"])
async def test_session_needs_no_wishes(server: Server, content: bytes) -> None:
    async with client_of(server, **{"Content-Type": "application/json"}) as client:
        response = await client.post("/sessions", content=content)
        await client.delete(f"/sessions/{response.json()['id']}")

    assert response.status_code == 201


async def test_nulls_mean_absent(server: Server) -> None:
    names = "language id name workdir env idle_timeout".split()
    wishes: dict[str, Any] = dict.fromkeys(names)
    async with session(server, **wishes) as session_id:
        facts = await session_facts(server, session_id)

    assert facts["language"] == "python"
    assert facts["idle_timeout"] == 3600


async def test_sessions_do_not_share_variables(server: Server) -> None:
    async with session(server) as one, session(server) as two:
        await run(server, "mine = 1", session_id=one)

        answer = await run(server, "'mine' in dir()", session_id=two)
        own = await run(server, "mine", session_id=one)

    assert answer["result"] == "False"
    assert own["result"] == "1"
    assert own["session_id"] == one


@pytest.mark.parametrize("wish", ["a", "My-session_1.b", "0" * 64])
async def test_id_can_be_wished(server: Server, wish: str) -> None:
    async with session(server, id=wish) as session_id:
        assert session_id == wish
        assert (await run(server, "1 + 1", session_id=wish))["result"] == "2"


@pytest.mark.parametrize(
    "wish", ["", "default", "default-python", "a b", "a/b", "-a", ".", "é", "x" * 65, "a\n"]
)
async def test_bad_wished_id_is_refused(server: Server, wish: str) -> None:
    async with client_of(server) as client:
        response = await client.post("/sessions", json={"id": wish})

    assert refusal(response, 400) == "INVALID_REQUEST"


async def test_wished_id_that_is_taken(server: Server) -> None:
    async with session(server, id="taken"), client_of(server) as client:
        response = await client.post("/sessions", json={"id": "taken"})

    assert refusal(response, 409) == "SESSION_EXISTS"


async def test_same_id_wished_twice_at_once_makes_one_session(
    server: Server, tmp_path: Path
) -> None:
    wishes = {"id": "twice", "workdir": str(tmp_path)}
    async with client_of(server) as client:
        before = (await client.get("/health")).json()["pools"]["python"]["leased"]
        for _ in range(4):
            responses = await asyncio.gather(
                *(client.post("/sessions", json=wishes) for _ in range(6))
            )
            await client.delete("/sessions/twice")
            statuses = sorted(response.status_code for response in responses)
            assert statuses == [201, *[409] * 5]
        after = (await client.get("/health")).json()["pools"]["python"]["leased"]

    assert after == before


@pytest.mark.parametrize(
    ("wishes", "code"),
    [
        ({"unknown": 1}, "INVALID_REQUEST"),
        ({"language": "cobol"}, "INVALID_REQUEST"),
        ({"language": "algol"}, "LANGUAGE_NOT_AVAILABLE"),
        ({"workdir": "/no/such"}, "DIRECTORY_NOT_FOUND"),
        ({"env": {"A": 1}}, "INVALID_REQUEST"),
        ({"env": {"A=B": "1"}}, "INVALID_REQUEST"),
        ({"idle_timeout": -1}, "INVALID_REQUEST"),
        ({"name": "x" * 201}, "INVALID_REQUEST"),
    ],
    ids=str,
)
async def test_bad_wishes_are_refused_and_leave_nothing(
    server: Server, wishes: dict[str, Any], code: str
) -> None:
    async with client_of(server) as client:
        before = (await client.get("/sessions")).json()["count"]
        response = await client.post("/sessions", json={"id": "bad", **wishes})
        after = (await client.get("/sessions")).json()["count"]

    assert refusal(response, 400) == code
    assert before == after


async def test_sessions_are_listed_oldest_first(server: Server) -> None:
    async with session(server) as one, session(server) as two, client_of(server) as client:
        listing = (await client.get("/sessions")).json()

    ids = [item["id"] for item in listing["sessions"]]
    assert listing["count"] == len(ids)
    assert ids[-2:] == [one, two]
    assert "transcript" not in listing["sessions"][0]


async def test_deleted_session_is_gone_with_its_process(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        pid = (await session_facts(server, session_id))["pid"]
        response = await client.delete(f"/sessions/{session_id}")
        again = await client.delete(f"/sessions/{session_id}")
        asked = await client.get(f"/sessions/{session_id}")

    assert response.status_code == 200
    assert response.json() == {
        "id": session_id,
        "message": "the session was closed",
        "success": True,
    }
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert refusal(again, 404) == "SESSION_NOT_FOUND"
    assert refusal(asked, 404) == "SESSION_NOT_FOUND"


async def test_default_session_is_marked(server: Server) -> None:
    await run(server, "1")

    facts = await session_facts(server, "default")

    assert facts["id"] == "default-python"
    assert facts["is_default"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/restart"),
        ("POST", "/interrupt"),
        ("POST", "/input"),
        ("POST", "/complete"),
        ("POST", "/inspect"),
        ("GET", "/variables"),
    ],
)
async def test_unknown_session_is_404_on_every_route(
    server: Server, method: str, path: str
) -> None:
    async with client_of(server) as client:
        body = None if method != "POST" else {"value": "x"} if path == "/input" else {"code": "x"}
        response = await client.request(method, f"/sessions/unknown{path}", json=body)

    assert refusal(response, 404) == "SESSION_NOT_FOUND"


# Directory and environment


async def test_directory_of_a_session(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with session(server, working_dir=str(tmp_path)) as session_id:
        facts = await session_facts(server, session_id)
        code = "import os; print(os.getcwd())"
        first = await run(server, code, session_id=session_id)
        during = await run(server, code, session_id=session_id, workdir=str(tmp_path / "other"))
        after = await run(server, code, session_id=session_id)

    assert facts["workdir"] == str(tmp_path)
    assert first["stdout"] == after["stdout"] == f"{tmp_path}\n"
    assert during["stdout"] == f"{tmp_path}/other\n"


async def test_environment_of_a_session_lies_below_that_of_a_request(server: Server) -> None:
    code = "import os; print([os.environ.get(name) for name in ('OWN', 'BOTH', 'GIVEN')])"
    async with session(server, env={"OWN": "a'\n$b", "BOTH": "session"}) as session_id:
        first = await run(server, code, session_id=session_id)
        during = await run(
            server, code, session_id=session_id, env={"BOTH": "request", "GIVEN": "1"}
        )
        after = await run(server, code, session_id=session_id)
    outside = await run(server, code)

    assert first["stdout"] == after["stdout"] == f"{[WEIRD, 'session', None]}\n"
    assert during["stdout"] == f"{[WEIRD, 'request', '1']}\n"
    assert outside["stdout"] == "[None, None, None]\n"


WEIRD = "a'\n$b"


async def test_fresh_kernel_has_the_sessions_directory_and_environment(
    server: Server, tmp_path: Path
) -> None:
    async with session(server, env={"OWN": "1"}, workdir=str(tmp_path)) as session_id:
        await run(server, "import os; os._exit(3)", session_id=session_id)

        answer = await run(
            server, "import os; print(os.environ['OWN'], os.getcwd())", session_id=session_id
        )

    assert answer["stdout"] == f"1 {tmp_path}\n"


# In the words of Jupyter


async def test_jupyter_sessions(server: Server, tmp_path: Path) -> None:
    async with (
        session(server, name="label", workdir=str(tmp_path)) as session_id,
        client_of(server) as client,
    ):
        facts = await session_facts(server, session_id)
        listing = (await client.get("/jupyter/sessions")).json()

    assert listing["count"] == len(listing["sessions"])
    (item,) = [item for item in listing["sessions"] if item["id"] == session_id]
    assert item == {
        "id": session_id,
        "kernel_id": facts["kernel_id"],
        "execution_state": "idle",
        "connections": 0,
        "last_activity": facts["last_activity"],
        "language": "python",
        "path": str(tmp_path),
        "name": "label",
        "parent": "",
        "checkpoints": 0,
    }


async def test_jupyter_sessions_tell_who_is_busy(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(run(server, SLEEP, session_id=session_id))
        await until_busy(server, session_id)
        listing = (await client.get("/jupyter/sessions")).json()
        await client.post(f"/sessions/{session_id}/interrupt")
        await running

    (item,) = [item for item in listing["sessions"] if item["id"] == session_id]
    assert item["execution_state"] == "busy"
    assert item["connections"] == 1
