"""Named terminals: they live on without a client."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server
from tests.terminals.console import (
    QUIET,
    attempt,
    call,
    console,
    info,
    none_open,
    ptys,
    refusal,
    terminal,
)
from tests.waiting import until


async def test_make_list_and_delete(server: Server) -> None:
    name = f"build-{uuid.uuid4().hex[:8]}"
    made = await call(server, "POST", id=name, cols=100, rows=30, workdir=".", **QUIET)
    assert made["id"] == name
    assert (made["status"], made["exit_code"], made["attached"]) == ("running", None, False)
    assert (made["cols"], made["rows"], made["ended_at"]) == (100, 30, None)
    assert made["command"] == "bash --norc --noprofile --noediting"
    assert made["workdir"] == str(server.workspace)
    assert Path(f"/proc/{made['pid']}").exists()

    listed = await call(server, "GET")
    assert name in [item["id"] for item in listed["terminals"]]
    assert listed["count"] == len(listed["terminals"])
    again = await attempt(server, "POST", id=name)
    assert (again.status_code, again.json()["code"]) == (409, "TERMINAL_EXISTS")

    deleted = await call(server, "DELETE", f"/terminals/{name}")
    assert (deleted["id"], deleted["exit_code"]) == (name, 129)
    assert not Path(f"/proc/{made['pid']}").exists()
    for method in ("GET", "DELETE"):
        gone = await attempt(server, method, f"/terminals/{name}")
        assert (gone.status_code, gone.json()["code"]) == (404, "TERMINAL_NOT_FOUND")
    status, body = await refusal(server, f"/terminals/{name}")
    assert (status, body["code"]) == (404, "TERMINAL_NOT_FOUND")


async def test_without_a_body_it_is_a_shell(server: Server) -> None:
    made = await call(server, "POST")
    try:
        assert made["command"].endswith("bash")
        assert made["id"].startswith("term_")
        assert (made["cols"], made["rows"]) == (80, 24)
    finally:
        await call(server, "DELETE", f"/terminals/{made['id']}")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"cols": 0}, "INVALID_REQUEST"),
        ({"rows": 1001}, "INVALID_REQUEST"),
        ({"cols": True}, "INVALID_REQUEST"),
        ({"id": "../x"}, "INVALID_REQUEST"),
        ({"id": ""}, "INVALID_REQUEST"),
        ({"shell": "zsh"}, "INVALID_REQUEST"),
        ({"args": ["-l"]}, "INVALID_REQUEST"),
        ({"command": "a\0b"}, "INVALID_REQUEST"),
        ({"env": {"A=B": "1"}}, "INVALID_REQUEST"),
        ({"workdir": "/no/such"}, "DIRECTORY_NOT_FOUND"),
        ({"command": "/no/such", "args": []}, "TERMINAL_START_FAILED"),
        ({"command": "/etc", "args": []}, "TERMINAL_START_FAILED"),
        ({"command": "no-such", "args": []}, "TERMINAL_START_FAILED"),
        ({"command": "--help", "args": []}, "TERMINAL_START_FAILED"),
        ({"command": "ls", "args": [], "env": {"PATH": ""}}, "TERMINAL_START_FAILED"),
        ({"command": "true", "args": ["x" * 200_000]}, "TERMINAL_START_FAILED"),
    ],
)
async def test_what_is_wrong_is_told(server: Server, fields: dict[str, Any], code: str) -> None:
    await none_open(server)
    response = await attempt(server, "POST", **fields)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert ptys(server) == 0


async def test_a_program_instead_of_a_shell(server: Server) -> None:
    line = "read name; echo hello $name from $FRUIT; exit 5"
    async with (
        terminal(server, command=line, args=None, env={"FRUIT": "quince"}) as path,
        console(server, path) as mine,
    ):
        await mine.type("you\n")
        assert (await mine.until_type("exit"))["code"] == 5
        assert "hello you from quince\r\n" in mine.text
        assert await mine.close_code() == 1000


async def test_programs_by_path_and_by_name(server: Server) -> None:
    program = server.workspace / "bin" / "greet"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\necho hello $1\n")
    program.chmod(0o755)
    for command, workdir, env in (
        ("./greet", "bin", {}),
        ("bin/greet", None, {}),
        ("greet", None, {"PATH": str(program.parent)}),
    ):
        wanted = {"command": command, "args": ["you"], "workdir": workdir, "env": env}
        async with terminal(server, **wanted) as path, console(server, path) as mine:
            assert (await mine.until_type("exit"))["code"] == 0
            assert mine.text == "hello you\r\n"


async def test_one_that_is_removed_as_soon_as_it_is_made(server: Server) -> None:
    await none_open(server)
    for _ in range(20):
        made = await call(server, "POST", **QUIET)
        deleted = await call(server, "DELETE", f"/terminals/{made['id']}")
        assert deleted["exit_code"] in (129, 137)
    assert ptys(server) == 0


async def test_it_goes_on_without_a_client(server: Server) -> None:
    async with terminal(server) as path:
        async with console(server, path) as mine:
            greeting = await mine.receive()
            assert greeting["type"] == "attached"
            assert (greeting["offset"], greeting["oldest_offset"]) == (0, 0)
            assert (greeting["cols"], greeting["rows"]) == (80, 24)
            await mine.type("stty -echo; printf 'o%s\\n' n\n")
            await mine.until("on\r\n")
            await mine.type("sleep 0.3; echo late; word=kept\n")
            assert (await info(server, path))["attached"]
            mine.connection.transport.abort()

        async def late() -> bool:
            facts = await info(server, path)
            return bool(facts["end_offset"] > len(mine.text.encode()) and not facts["attached"])

        await until(late)
        async with console(server, path) as mine:
            await mine.type("echo $word $word\n")
            await mine.until("kept kept\r\n")
            assert mine.text.count("late\r\n") == 1
            position = mine.messages[-1]["next_offset"]
            assert position == len(mine.text.encode())
        async with console(server, path, offset=position) as mine:
            await mine.type("echo new\n")
            await mine.until("new\r\n")
            assert mine.text == "new\r\n"


async def test_an_ended_one_is_kept_with_its_output(server: Server) -> None:
    async with terminal(server, command="printf whole; exit 9", args=None) as path:

        async def has_ended() -> bool:
            return bool((await info(server, path))["status"] == "ended")

        await until(has_ended)
        facts = await info(server, path)
        assert (facts["exit_code"], facts["end_offset"]) == (9, 5)
        assert facts["ended_at"] >= facts["created_at"]
        for offset in (0, 2, 5):
            async with console(server, path, offset=offset) as mine:
                assert (await mine.until_type("exit"))["code"] == 9
                assert mine.text == "whole"[offset:]
                assert await mine.close_code() == 1000


async def test_another_client_takes_over(server: Server) -> None:
    async with terminal(server) as path:
        async with console(server, path) as first:
            await first.type("printf 'o%s\\n' n\n")
            await first.until("on\r\n")
            status, body = await refusal(server, path, takeover="false")
            assert (status, body["code"]) == (409, "TERMINAL_BUSY")
            async with console(server, path, cols=90, rows=20) as second:
                assert await first.close_code() == 4001
                assert first.messages[-1]["type"] == "taken_over"
                await second.type("stty size\n")
                await second.until("20 90\r\n")
                assert (await info(server, path))["attached"]

        async def is_left() -> bool:
            return not (await info(server, path))["attached"]

        await until(is_left)
        async with console(server, path, takeover="false") as third:
            await third.until("20 90\r\n")


async def test_a_stuck_client_loses_it_as_well(server: Server) -> None:
    async with (
        terminal(server) as path,
        console(server, path, options={"max_queue": 1}) as first,
    ):
        await first.type("yes\n")
        # It reads nothing any more, so nothing can be told to it.
        before = -1
        while (now := (await info(server, path))["end_offset"]) != before:
            before = now
            await asyncio.sleep(0.2)
        async with console(server, path) as second:
            await second.type("\x03")
            await second.type("printf 'o%s\\n' n\n")
            await second.until("on\r\n")
        # Not to wait for its farewell.
        first.connection.transport.abort()


async def test_an_offset_that_was_not_printed_yet(server: Server) -> None:
    async with terminal(server) as path:
        status, body = await refusal(server, path, offset=10**9)
        assert (status, body["code"]) == (400, "INVALID_REQUEST")
        assert body["details"]["end_offset"] < 10**9
        status, body = await refusal(server, path, offset=-1)
        assert (status, body["code"]) == (400, "INVALID_REQUEST")
