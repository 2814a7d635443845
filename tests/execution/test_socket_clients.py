"""Clients of a WebSocket that answer prompts, interrupt, or vanish."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.execution.sockets import PATHS, connected, execute, until_complete
from tests.execution.streams import waiting
from tests.runs import Message, run, session, session_facts, text_of, types, until_busy
from tests.servers import Server
from tests.waiting import PATIENCE, until

# Input and interrupts


async def test_input_message_answers_a_prompt(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"code": "print(input('name? ') + input('more? '))"}))
        items: list[Message] = []
        while not items or items[-1]["type"] != "complete":
            items.append(json.loads(await connection.recv()))
            if items[-1]["type"] == "input_request":
                field = "data" if items[-1]["prompt"] == "name? " else "value"
                await connection.send(json.dumps({"type": "input", field: "Ädä"}))

    assert text_of(items) == "ÄdäÄdä\n"


async def test_input_that_nobody_asked_for_is_an_error_and_no_end(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"type": "input", "data": "x"}))
        refusal = json.loads(await connection.recv())
        items = await execute(connection, "print(1)")

    assert refusal["type"] == "error"
    assert text_of(items) == "1\n"


async def test_interrupt_message_ends_the_run_and_keeps_the_state(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        await execute(connection, "kept = 1", session_id=session_id)
        body = {"code": "print('on', flush=True)\nimport time; time.sleep(60)"}
        await connection.send(json.dumps(body | {"session_id": session_id}))
        items: list[Message] = []
        while not items or items[-1]["type"] != "complete":
            items.append(json.loads(await connection.recv()))
            if items[-1]["type"] == "stdout":
                await connection.send(json.dumps({"type": "interrupt"}))
        after = await execute(connection, "print(kept)", session_id=session_id)

    assert items[-2]["outcome"] == "interrupted"
    assert items[-2]["exit_code"] == 130
    assert items[-1]["success"] is False
    assert text_of(after) == "1\n"


async def test_interrupt_sent_right_after_execute_is_not_lost(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        body = {"code": "import time; time.sleep(60)", "session_id": session_id}
        await connection.send(json.dumps(body))
        await connection.send(json.dumps({"type": "interrupt"}))
        items = await until_complete(connection)

    assert items[-2]["outcome"] == "interrupted"


async def test_interrupt_of_nothing_is_ignored(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"type": "interrupt"}))
        items = await execute(connection, "print(1)")

    assert text_of(items) == "1\n"


async def test_interrupt_while_only_bad_messages_wait_hits_no_later_run(server: Server) -> None:
    bad = 20
    async with connected(server) as connection:
        for _ in range(bad):
            await connection.send("no json")
        # Their answers are paced: most of them still wait when it arrives.
        await connection.send(json.dumps({"type": "interrupt"}))
        for _ in range(bad):
            assert types(await until_complete(connection)) == ["error", "complete"]
        items = await execute(connection, "import time; time.sleep(0.1); print(1)")

    assert items[-2]["outcome"] == "ok"
    assert text_of(items) == "1\n"


# Clients that vanish


@pytest.mark.parametrize("path", PATHS)
async def test_client_that_vanishes_interrupts_its_run(server: Server, path: str) -> None:
    async with session(server) as session_id:
        async with connected(server, path) as connection:
            body = {"code": "on = 1\nimport time\ntime.sleep(60)", "timeout": 90}
            await connection.send(json.dumps(body | {"session_id": session_id}))
            await until_busy(server, session_id)
            queued = asyncio.create_task(run(server, "on", session_id=session_id))
            await until_busy(server, session_id, queued=1)
            # No close handshake: the client is gone.
            connection.transport.abort()

        answer = await queued
        facts = await session_facts(server, session_id)

    assert answer["result"] == "1"
    assert [entry["outcome"] for entry in facts["transcript"]] == ["cancelled", "ok"]


async def test_client_that_closes_properly_interrupts_its_run_too(server: Server) -> None:
    async with session(server) as session_id:
        async with connected(server) as connection:
            body = {"code": "import time; time.sleep(60)", "session_id": session_id}
            await connection.send(json.dumps(body | {"timeout": 90}))
            await until_busy(server, session_id)

        assert (await run(server, "1 + 1", session_id=session_id))["result"] == "2"


async def test_client_that_vanishes_may_wish_its_run_to_go_on(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as session_id:
        async with connected(server) as connection:
            code = f"{waiting(tmp_path / 'go')}\nended = True"
            body = {"code": code, "session_id": session_id, "on_disconnect": "continue"}
            await connection.send(json.dumps(body))
            await until_busy(server, session_id)
        (tmp_path / "go").touch()

        assert (await run(server, "ended", session_id=session_id))["result"] == "True"


async def test_pings_are_answered_while_code_runs(server: Server, tmp_path: Path) -> None:
    async with session(server) as session_id, connected(server) as connection:
        code = f"import os\nwhile not os.path.exists({str(tmp_path / 'go')!r}): pass"
        await connection.send(json.dumps({"code": code, "session_id": session_id}))
        await until_busy(server, session_id)

        async with asyncio.timeout(PATIENCE):
            await (await connection.ping())
        facts = await session_facts(server, session_id)
        (tmp_path / "go").touch()
        await until_complete(connection)

    assert facts["state"] == "busy"


async def test_waiting_requests_of_a_vanished_client_are_not_run(server: Server) -> None:
    async with session(server) as session_id:
        async with connected(server) as connection:
            for code in ("import time; time.sleep(60)", "second = 1"):
                body = {"code": code, "session_id": session_id, "timeout": 90}
                await connection.send(json.dumps(body))
            await until_busy(server, session_id)

        async def is_idle() -> bool:
            return bool((await session_facts(server, session_id))["state"] == "idle")

        await until(is_idle)
        answer = await run(server, "'second' in dir()", session_id=session_id)

    assert answer["result"] == "False"
