"""/sessions and /jupyter/sessions: made, listed, asked, interrupted, restarted, ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.runs import (
    client_of,
    messages,
    run,
    session,
    session_facts,
    streamed,
    text_of,
    until_busy,
)
from tests.servers import Server, serving
from tests.waiting import until

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def refusal(response: httpx.Response, status: int) -> str:
    """The code of a refused request."""
    assert response.status_code == status, response.text
    code: str = response.json()["code"]
    return code


@pytest.fixture
def two_session_server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own that takes two sessions."""
    with serving(tmp_path, KERNELAGENT_MAX_SESSIONS="2") as running:
        yield running


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


async def test_default_session_can_be_deleted_and_comes_back_fresh(
    two_session_server: Server,
) -> None:
    await run(two_session_server, "before = 1")

    async with client_of(two_session_server) as client:
        assert (await client.delete("/sessions/default")).status_code == 200
        missing = await client.get("/sessions/default")
    answer = await run(two_session_server, "'before' in dir()")

    assert refusal(missing, 404) == "SESSION_NOT_FOUND"
    assert answer["result"] == "False"


async def test_default_session_is_marked(server: Server) -> None:
    await run(server, "1")

    facts = await session_facts(server, "default")

    assert facts["id"] == "default-python"
    assert facts["is_default"] is True


async def test_limit_of_sessions(two_session_server: Server) -> None:
    async with (
        session(two_session_server),
        session(two_session_server),
        client_of(two_session_server) as client,
    ):
        response = await client.post("/sessions", json={})
        executed = await client.post("/execute", json={"code": "1"})

    assert refusal(response, 409) == "SESSION_LIMIT"
    assert refusal(executed, 409) == "SESSION_LIMIT"
    assert (await run(two_session_server, "1 + 1"))["result"] == "2"


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


# Interrupted, restarted, lost


async def test_interrupt_ends_the_run_and_keeps_the_state(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "kept = 1", session_id=session_id)
        running = asyncio.create_task(
            run(server, "print(1)\nimport time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)

        response = await client.post(f"/sessions/{session_id}/interrupt")
        answer = await running
        after = await run(server, "kept", session_id=session_id)

    assert response.json()["interrupted"] is True
    assert answer["outcome"] == "interrupted"
    assert answer["exit_code"] == 130
    assert answer["success"] is False
    assert answer["stdout"] in ("1\n", "")
    assert answer["state_lost"] is False
    assert after["result"] == "1"


async def test_interrupt_of_an_idle_session_does_nothing(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        response = await client.post(f"/sessions/{session_id}/interrupt")
        after = await run(server, "1 + 1", session_id=session_id)

    assert response.json()["interrupted"] is False
    assert after["result"] == "2"


async def test_interrupt_leaves_waiting_runs_in_the_queue(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(
            run(server, "import time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)
        waiting = asyncio.create_task(run(server, "1 + 1", session_id=session_id))
        await until_busy(server, session_id, queued=1)

        await client.post(f"/sessions/{session_id}/interrupt")

        assert (await running)["outcome"] == "interrupted"
        assert (await waiting)["result"] == "2"


async def test_restart_gives_a_fresh_kernel_under_the_same_id(server: Server) -> None:
    async with session(server, env={"OWN": "1"}) as session_id, client_of(server) as client:
        before = await session_facts(server, session_id)
        await run(server, "gone = 1", session_id=session_id)

        response = await client.post(f"/sessions/{session_id}/restart")
        answer = await run(
            server, "import os; 'gone' in dir(), os.environ['OWN']", session_id=session_id
        )

    facts = response.json()
    assert response.status_code == 200
    assert facts["id"] == session_id
    assert facts["pid"] != before["pid"]
    assert facts["generation"] == 2
    assert facts["state"] == "idle"
    assert answer["result"] == "(False, '1')"
    assert answer["execution_count"] == 1
    assert answer["notes"] == []


async def test_restart_cancels_what_runs_and_waits(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(
            run(server, "import time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)
        waiting = asyncio.create_task(run(server, "1 + 1", session_id=session_id))
        await until_busy(server, session_id, queued=1)

        response = await client.post(f"/sessions/{session_id}/restart")
        answers = await asyncio.gather(running, waiting)

    assert response.status_code == 200
    assert [answer["outcome"] for answer in answers] == ["cancelled", "cancelled"]
    assert all("restarted" in answer["stderr"] for answer in answers)


async def test_kernel_killed_between_runs_is_replaced_and_the_answer_says_so(
    server: Server,
) -> None:
    async with session(server) as session_id:
        await run(server, "before = 1", session_id=session_id)
        pid = (await session_facts(server, session_id))["pid"]
        os.kill(pid, signal.SIGKILL)

        async def is_noticed() -> bool:
            return not psutil.pid_exists(pid)

        await until(is_noticed)

        answer = await run(server, "'before' in dir()", session_id=session_id)
        next_answer = await run(server, "1", session_id=session_id)

    assert answer["success"] is True
    assert answer["result"] == "False"
    (note,) = answer["notes"]
    assert "SIGKILL" in note
    assert "fresh state" in note
    assert next_answer["notes"] == []


# Asked


async def test_completion(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "elephant = 1", session_id=session_id)
        response = await client.post(
            f"/sessions/{session_id}/complete", json={"code": "x = elep", "cursor_pos": 8}
        )

    answer = response.json()
    assert response.status_code == 200
    assert answer["matches"] == ["elephant"]
    assert (answer["cursor_start"], answer["cursor_end"]) == (4, 8)


async def test_completion_counts_characters_and_ends_at_the_end(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "elephant = 1", session_id=session_id)
        code = "'🎉🎉'; elep"
        response = await client.post(f"/sessions/{session_id}/complete", json={"code": code})

    answer = response.json()
    assert answer["matches"] == ["elephant"]
    assert (answer["cursor_start"], answer["cursor_end"]) == (len(code) - 4, len(code))


async def test_inspection(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        await run(server, "def f(a):\n    'What f does.'", session_id=session_id)
        found = await client.post(
            f"/sessions/{session_id}/inspect", json={"code": "f", "detail_level": 1}
        )
        missing = await client.post(f"/sessions/{session_id}/inspect", json={"code": "nothing"})

    assert found.json()["found"] is True
    assert "What f does." in found.json()["data"]["text/plain"]
    assert missing.json() == {"found": False, "data": {}, "metadata": {}}


async def test_variables(server: Server) -> None:
    code = """
import numpy as np, pandas as pd
number = 3
text = 'x' * 1000
array = np.zeros((3, 4))
frame = pd.DataFrame({'a': [1, 2]})
_hidden = 1
class Loud:
    def __repr__(self): raise RuntimeError
loud = Loud()
"""
    async with session(server) as session_id, client_of(server) as client:
        await run(server, code, session_id=session_id)
        response = await client.get(f"/sessions/{session_id}/variables")
        first = await client.get(f"/sessions/{session_id}/variables", params={"limit": 1})

    listing = response.json()
    found = {item["name"]: item for item in listing["variables"]}
    assert listing["total"] == len(found)
    assert listing["truncated"] is False
    assert found["number"]["type"] == "int"
    assert found["number"]["preview"] == "3"
    assert found["array"]["shape"] == [3, 4]
    assert found["array"]["size"] == 96
    assert found["frame"]["type"] == "pandas.DataFrame"
    assert found["frame"]["shape"] == [2, 1]
    assert len(found["text"]["preview"]) < 200
    assert "loud" in found
    assert "_hidden" not in found
    assert len(first.json()["variables"]) == 1
    assert first.json()["truncated"] is True
    assert first.json()["total"] == listing["total"]


async def test_questions_touch_neither_count_nor_history_nor_transcript(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        before = await run(server, "'the last value'", session_id=session_id)
        await client.post(f"/sessions/{session_id}/complete", json={"code": "pri"})
        await client.post(f"/sessions/{session_id}/inspect", json={"code": "print"})
        await client.get(f"/sessions/{session_id}/variables")
        after = await run(server, "_, In[-2], len(In)", session_id=session_id)
        facts = await session_facts(server, session_id)

    assert after["execution_count"] == before["execution_count"] + 1
    assert after["result"] == "('the last value', \"'the last value'\", 3)"
    assert facts["executions"] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("complete", {}),
        ("complete", {"code": 1}),
        ("complete", {"code": "x", "cursor_pos": 2}),
        ("complete", {"code": "x", "cursor_pos": -1}),
        ("complete", {"code": "x", "unknown": 1}),
        ("complete", {"code": "x", "timeout": 0}),
        ("inspect", {"code": "x", "detail_level": 7}),
        ("input", {}),
        ("input", {"value": 1}),
        ("input", {"value": "x", "unknown": 1}),
    ],
    ids=str,
)
async def test_bad_questions_are_refused(server: Server, path: str, body: dict[str, Any]) -> None:
    async with client_of(server) as client:
        response = await client.post(f"/sessions/default/{path}", json=body)

    assert refusal(response, 400) in ("INVALID_REQUEST", "MISSING_PARAMETER")


async def test_nulls_mean_absent_in_questions_too(server: Server) -> None:
    async with client_of(server) as client:
        body = {"code": "print", "cursor_pos": None, "timeout": None, "detail_level": None}
        response = await client.post("/sessions/default/inspect", json=body)

    assert response.json()["found"] is True


async def test_input_meant_for_another_run_is_refused(server: Server) -> None:
    async with (
        session(server) as session_id,
        client_of(server) as client,
        streamed(server, "print(input())", session_id=session_id) as response,
    ):
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "input_request":
                path = f"/sessions/{session_id}/input"
                wrong = await client.post(path, json={"value": "x", "execution_id": "exec_1"})
                await client.post(path, json={"value": "right"})

    assert refusal(wrong, 409) == "NO_INPUT_AWAITED"
    assert text_of(items) == "right\n"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=5001", "timeout=nan", "timeout=0"])
async def test_bad_query_is_refused(server: Server, query: str) -> None:
    async with client_of(server) as client:
        response = await client.get(f"/sessions/default/variables?{query}")

    assert refusal(response, 400) == "INVALID_REQUEST"


async def test_question_to_a_busy_session_says_so_in_time(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        running = asyncio.create_task(
            run(server, "import time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)

        completed = await client.post(
            f"/sessions/{session_id}/complete", json={"code": "x", "timeout": 0.2}
        )
        listed = await client.get(f"/sessions/{session_id}/variables", params={"timeout": 0.2})
        await client.post(f"/sessions/{session_id}/interrupt")
        await running
        after = await client.post(f"/sessions/{session_id}/complete", json={"code": "pri"})

    assert refusal(completed, 409) == "SESSION_BUSY"
    assert completed.json()["details"] == {"state": "busy"}
    assert refusal(listed, 409) == "SESSION_BUSY"
    assert "print" in after.json()["matches"]


async def test_question_to_the_default_session_makes_it(two_session_server: Server) -> None:
    async with client_of(two_session_server) as client:
        response = await client.post("/sessions/default/complete", json={"code": "pri"})

    assert "print" in response.json()["matches"]


# Idle


async def test_idle_session_is_closed(server: Server) -> None:
    async with session(server, idle_timeout=0.1) as session_id, client_of(server) as client:

        async def is_gone() -> bool:
            return (await client.get(f"/sessions/{session_id}")).status_code == 404

        await until(is_gone)


async def test_session_that_works_or_may_idle_is_not_closed(server: Server) -> None:
    async with (
        session(server, idle_timeout=0.1) as gone,
        session(server, idle_timeout=0.1) as working,
        session(server, idle_timeout=0) as staying,
        client_of(server) as client,
    ):
        running = asyncio.create_task(
            run(server, "import time; time.sleep(60)", session_id=working, timeout=90)
        )

        async def is_gone() -> bool:
            return (await client.get(f"/sessions/{gone}")).status_code == 404

        await until(is_gone)
        worked = await session_facts(server, working)
        stayed = await session_facts(server, staying)
        await client.post(f"/sessions/{working}/interrupt")
        await running

    assert worked["state"] == "busy"
    assert stayed["state"] == "idle"
    assert stayed["idle_timeout"] == 0


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
        running = asyncio.create_task(
            run(server, "import time; time.sleep(60)", session_id=session_id)
        )
        await until_busy(server, session_id)
        listing = (await client.get("/jupyter/sessions")).json()
        await client.post(f"/sessions/{session_id}/interrupt")
        await running

    (item,) = [item for item in listing["sessions"] if item["id"] == session_id]
    assert item["execution_state"] == "busy"
    assert item["connections"] == 1
