"""How many sessions and kernels there may be, and what becomes of the default session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import client_of, run, session
from tests.servers import Service, serving_in_process
from tests.sessions.branching import branch, health, post, refusal


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that takes two sessions."""
    root = tmp_path_factory.mktemp("small")
    with serving_in_process(root, max_sessions=2, preload=()) as running:
        yield running


@pytest.fixture
async def two_session_server(small_server: Service) -> Service:
    """It, as if it had just been started."""
    async with client_of(small_server) as client:
        for made in (await client.get("/sessions")).json()["sessions"]:
            await client.delete(f"/sessions/{made['id']}")
    return small_server


@pytest.fixture
def two_kernel_server(tmp_path: Path) -> Iterator[Service]:
    """A server that has two kernels at most, none of them in advance."""
    with serving_in_process(tmp_path, max_kernels=2, pool_idle=0, preload=()) as running:
        yield running


async def test_default_session_can_be_deleted_and_comes_back_fresh(
    two_session_server: Service,
) -> None:
    await run(two_session_server, "before = 1")

    async with client_of(two_session_server) as client:
        assert (await client.delete("/sessions/default")).status_code == 200
        missing = await client.get("/sessions/default")
    answer = await run(two_session_server, "'before' in dir()")

    assert refusal(missing, 404) == "SESSION_NOT_FOUND"
    assert answer["result"] == "False"


async def test_limit_of_sessions(two_session_server: Service) -> None:
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


async def test_question_to_the_default_session_makes_it(two_session_server: Service) -> None:
    async with client_of(two_session_server) as client:
        response = await client.post("/sessions/default/complete", json={"code": "pri"})

    assert "print" in response.json()["matches"]


async def test_limit_of_sessions_holds_for_branches(two_session_server: Service) -> None:
    async with session(two_session_server) as parent:
        async with branch(two_session_server, parent) as child:
            response = await post(two_session_server, f"/sessions/{child}/branch")
            again = await run(two_session_server, "1 + 1", session_id=child)
        async with branch(two_session_server, parent):
            pass

    assert refusal(response, 409) == "SESSION_LIMIT"
    assert response.json()["details"] == {"limit": 2}
    assert again["result"] == "2"


async def test_limit_of_kernels_holds_for_branches(two_kernel_server: Service) -> None:
    async with session(two_kernel_server) as parent:
        async with branch(two_kernel_server, parent) as child:
            response = await post(two_kernel_server, f"/sessions/{child}/branch", id="third")
            left = await health(two_kernel_server)
        async with branch(two_kernel_server, parent):
            pass

    assert refusal(response, 409) == "SESSION_LIMIT"
    assert "2 kernels" in response.json()["error"]
    assert left["sessions"] == 2
