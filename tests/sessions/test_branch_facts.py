"""What is told of a branch, and what it takes over from its session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import client_of, run, session, session_facts
from tests.servers import Server
from tests.sessions.branching import branch, delete, post


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id": null, "name": null, "timeout": null}'])
async def test_branch_needs_no_wishes(server: Server, content: bytes) -> None:
    async with (
        session(server) as parent,
        client_of(server, **{"Content-Type": "application/json"}) as client,
    ):
        response = await client.post(f"/sessions/{parent}/branch", content=content)
        await delete(server, response.json()["id"])

    assert response.status_code == 201


async def test_branch_is_told_in_full(server: Server, tmp_path: Path) -> None:
    wishes = {"name": "parent's", "workdir": str(tmp_path), "idle_timeout": 77}
    async with session(server, **wishes) as parent, client_of(server) as client:
        await run(server, "1", session_id=parent)
        response = await client.post(
            f"/sessions/{parent}/branch", json={"id": "a-branch", "name": "A label"}
        )
        made = response.json()
        facts = await session_facts(server, parent)
        listed = (await client.get("/sessions")).json()["sessions"]
        in_jupyter = (await client.get("/jupyter/sessions")).json()["sessions"]
        await delete(server, "a-branch")

    assert response.status_code == 201
    assert made["id"] == "a-branch"
    assert made["name"] == "A label"
    assert made["parent"] == parent
    assert made["language"] == "python"
    assert made["is_default"] is False
    assert made["state"] == "idle"
    assert made["generation"] == 1
    assert made["workdir"] == str(tmp_path)
    assert made["idle_timeout"] == 77
    assert (made["executions"], made["transcript"], made["queued"]) == (0, [], 0)
    assert made["pid"] != facts["pid"]
    assert made["kernel_id"] != facts["kernel_id"]
    assert [each["parent"] for each in listed if each["id"] in (parent, "a-branch")] == ["", parent]
    (told,) = [each for each in in_jupyter if each["id"] == "a-branch"]
    assert told["parent"] == parent
    assert told["kernel_id"] == made["kernel_id"]


async def test_branch_of_a_session_that_may_idle_may_idle_too(server: Server) -> None:
    async with session(server, idle_timeout=0) as parent, branch(server, parent) as child:
        facts = await session_facts(server, child)

    assert facts["idle_timeout"] == 0


async def test_default_session_can_be_branched(server: Server) -> None:
    # Other tests have left threads in it.
    await run(server, "pass")
    assert (await post(server, "/sessions/default/restart")).status_code == 200
    await run(server, "of_default = 5")
    async with branch(server, "default") as child:
        facts = await session_facts(server, child)
        answer = await run(server, "of_default", session_id=child)
        await run(server, "of_default = 6", session_id=child)
    own = await run(server, "of_default")

    assert facts["parent"] == "default-python"
    assert facts["is_default"] is False
    # The default session stays for ever; a copy of it does not.
    assert facts["idle_timeout"] == 3600
    assert answer["result"] == own["result"] == "5"
