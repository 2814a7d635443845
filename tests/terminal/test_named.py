"""Named terminals: they live on without a client, and show what was missed."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.runs import client_of
from tests.servers import Server, start_server
from tests.terminal.console import (
    QUIET,
    attempt,
    bearers,
    call,
    console,
    none_open,
    ptys,
    refusal,
    terminal,
)
from tests.waiting import until

# Prints numbers for ever, in pieces of all sizes, with characters of all lengths.
COUNTER = """
import os, random, sys, time
chooser = random.Random(7)
number = 0
while not os.path.exists(sys.argv[1]):
    count = chooser.choice((1, 1, 3, 40, 900))
    text = "".join(f"{n}:aé€😀;" for n in range(number, number + count)).encode()
    number += count
    while text:
        size = chooser.randint(1, 3000)
        os.write(1, text[:size])
        text = text[size:]
    time.sleep(chooser.choice((0, 0.001, 0.01)))
os.write(1, b"END")
"""


async def info(server: Server, path: str) -> dict[str, Any]:
    return await call(server, "GET", path)


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


async def test_200_reconnections_lose_and_repeat_nothing(server: Server, tmp_path: Path) -> None:
    (server.workspace / "counter.py").write_text(COUNTER)
    stop = tmp_path / "stop"
    chooser = random.Random(11)  # noqa: S311
    text, position = "", 0
    command = {"command": "python3", "args": ["counter.py", str(stop)]}
    async with terminal(server, **command) as path:
        for turn in range(200):
            async with console(server, path, offset=position) as mine:
                greeting = await mine.receive()
                assert greeting["offset"] == position
                for _ in range(chooser.choice((0, 1, 2, 5))):
                    await mine.receive()
                if turn % 3 == 0:
                    mine.connection.transport.abort()
            assert not [item for item in mine.messages if item["type"] == "skipped"]
            text += mine.text
            position = next(
                (
                    item["next_offset"]
                    for item in reversed(mine.messages)
                    if item["type"] == "output"
                ),
                position,
            )
        stop.touch()
        async with console(server, path, offset=position) as mine:
            await mine.until_type("exit")
            text += mine.text
    count = text.count(";")
    assert count > 5000
    assert text == "".join(f"{number}:aé€😀;" for number in range(count)) + "END"


async def test_an_offset_that_is_no_longer_kept(server_with_little: Server) -> None:
    server = server_with_little
    line = "for n in {1..100000}; do echo é$n; done"
    async with terminal(server, command=line, args=None) as path:

        async def has_ended() -> bool:
            return bool((await info(server, path))["status"] == "ended")

        await until(has_ended)
        facts = await info(server, path)
        whole = "".join(f"é{number}\r\n" for number in range(1, 100_001))
        assert facts["end_offset"] == len(whole.encode())
        assert facts["end_offset"] - facts["oldest_offset"] == 256 * 1024
        async with console(server, path, offset=10) as mine:
            greeting = await mine.receive()
            skipped = await mine.receive()
            assert skipped["type"] == "skipped"
            assert skipped["bytes"] == greeting["offset"] - 10
            # A character that was cut in two is left out as a whole.
            assert 0 <= greeting["offset"] - greeting["oldest_offset"] <= 1
            await mine.until_type("exit")
            assert whole.endswith(mine.text)
            assert len(mine.text.encode()) == facts["end_offset"] - greeting["offset"]


async def test_a_replay_begins_with_a_character(server_with_little: Server) -> None:
    server = server_with_little
    # What is kept of it begins inside a character.
    line = "printf x; yes é | head -n 200000 | tr -d '\\n'; printf z"
    async with terminal(server, command=line, args=None) as path:

        async def has_ended() -> bool:
            return bool((await info(server, path))["status"] == "ended")

        await until(has_ended)
        async with console(server, path) as mine:
            await mine.until_type("exit")
            assert mine.text == "é" * (len(mine.text) - 1) + "z"


async def test_programs_may_save_when_the_line_is_cut(server: Server, tmp_path: Path) -> None:
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    program = (
        f"trap 'sleep 0.5; echo kept > {saved}; exit' HUP; touch {ready}; "
        "while :; do sleep 0.05; done"
    )
    # The shell ends at once, the program below it takes its time.
    async with terminal(server, **QUIET) as path, console(server, path) as mine:
        await mine.type(f'bash -c "{program}"\r')

        async def is_ready() -> bool:
            return ready.exists()

        await until(is_ready)
    assert saved.read_text() == "kept\n"


async def test_shells_hear_what_the_server_ignores(tmp_path: Path) -> None:
    quiet = ("nohup", "sh", "-c", 'trap "" INT QUIT; exec "$0" "$@"', sys.executable)
    server = await asyncio.to_thread(start_server, tmp_path, python=quiet, HOME=str(tmp_path))
    try:
        line = """
            trap 'echo interrupted' INT; trap 'exit 7' HUP
            echo ready; while :; do sleep 0.05; done
        """
        name = (await call(server, "POST", command=line))["id"]
        server.process.send_signal(signal.SIGHUP)
        async with console(server, f"/terminals/{name}") as mine:
            await mine.until("ready")
            await mine.type("\x03")
            await mine.until("interrupted")
        assert (await call(server, "DELETE", f"/terminals/{name}"))["exit_code"] == 7
    finally:
        assert await asyncio.to_thread(server.stop) == 0


async def test_a_slow_client_is_brought_up_to_date(server_with_little: Server) -> None:
    server = server_with_little
    # The program ends although its client does not read.
    line = "head -c 30000000 /dev/zero | tr '\\0' 'x'; echo; echo last; read wait"
    async with (
        terminal(server, command=line, args=None) as path,
        console(server, path, options={"max_queue": 1}) as mine,
    ):

        async def is_done() -> bool:
            return bool((await info(server, path))["end_offset"] >= 30_000_008)

        await until(is_done, 60)
        await mine.until("last\r\n", 60)
        skipped = [item for item in mine.messages if item["type"] == "skipped"]
        assert skipped
        lost = sum(item["bytes"] for item in skipped)
        assert lost + len(mine.text.encode()) == 30_000_000 + len("\r\nlast\r\n")
        position = 0
        for item in mine.messages[1:]:
            if item["type"] == "skipped":
                position += item["bytes"]
            assert item["offset"] == position
            if item["type"] == "output":
                position = item["next_offset"]


async def test_a_client_that_reads_gets_all_of_it(server_with_little: Server) -> None:
    line = "seq 1000000; exit"
    async with (
        terminal(server_with_little, command=f"read go; {line}", args=None) as path,
        console(server_with_little, path, binary=1) as mine,
    ):
        await mine.type("\n")
        pieces: list[bytes] = []
        while not isinstance(got := await mine.connection.recv(), str) or "exit" not in got:
            if isinstance(got, bytes):
                pieces.append(got)
            else:
                assert "skipped" not in got
    numbers = re.findall(rb"(\d+)\r\n", b"".join(pieces))
    assert numbers == [b"%d" % number for number in range(1, 1_000_001)]


async def test_nobody_looks_at_a_flood(server: Server) -> None:
    async with terminal(server, command="yes", args=[]) as path, client_of(server) as client:
        times = []
        for _ in range(50):
            started = time.monotonic()
            assert (await client.get("/ping")).status_code == 200
            times.append(time.monotonic() - started)
        assert sorted(times)[25] < 0.05
        facts = await info(server, path)
        assert facts["end_offset"] - facts["oldest_offset"] <= 2**20


async def test_names_count_against_the_limit(server_with_little: Server) -> None:
    server = server_with_little
    async with terminal(server), console(server):
        refused = await attempt(server, "POST")
        assert (refused.status_code, refused.json()["code"]) == (409, "TERMINAL_LIMIT")


async def test_what_is_too_old_goes(server_with_little: Server) -> None:
    server = server_with_little
    mark = f"mark-{uuid.uuid4().hex}"
    await none_open(server)
    async with terminal(server, command="sleep 300", args=None, env={"MARK": mark}) as idle:
        async with console(server, idle) as mine:
            # Not idle as long as a client is there.
            await asyncio.sleep(4)
            assert (await info(server, idle))["status"] == "running"
            await mine.send("resize", cols=90, rows=20)

        async def has_ended() -> bool:
            return bool((await info(server, idle))["status"] == "ended")

        await until(has_ended)
        assert (await info(server, idle))["exit_code"] == 129
        assert not bearers(mark)
        assert ptys(server) == 0

        async def is_forgotten() -> bool:
            return (await attempt(server, "GET", idle)).status_code == 404

        await until(is_forgotten)


async def test_ended_ones_are_not_without_number(server_with_little: Server) -> None:
    server = server_with_little
    made = [await call(server, "POST", command="true", args=[])]
    for _ in range(5):

        async def none_runs() -> bool:
            found = (await call(server, "GET"))["terminals"]
            return all(item["status"] == "ended" for item in found)

        await until(none_runs)
        made.append(await call(server, "POST", command="true", args=[]))

    async def few() -> bool:
        return bool((await call(server, "GET"))["count"] <= 2)

    await until(few)
    kept = [item["id"] for item in (await call(server, "GET"))["terminals"]]
    # The newest ones.
    assert set(kept) <= {item["id"] for item in made[-2:]}


async def test_deleting_tells_the_client(server: Server) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    await none_open(server)
    async with terminal(server, env={"MARK": mark, "PS1": ""}) as path, console(server, path) as me:
        await me.type("setsid sleep 300 & trap '' HUP; printf 'o%s\\n' n; sleep 300\n")
        await me.until("on\r\n")
        deleted = await call(server, "DELETE", path)
        assert deleted["exit_code"] == 137
        assert (await me.until_type("exit"))["code"] == 137
        assert await me.close_code() == 1000
        assert not bearers(mark)
    assert ptys(server) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_they_end_with_the_server(tmp_path: Path, number: int) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    running = start_server(tmp_path, HOME=str(tmp_path))
    try:
        await call(
            running,
            "POST",
            command=f"export MARK={mark}; setsid sleep 300 & trap '' HUP; sleep 300",
        )
        async with console(running) as mine:
            await mine.type(f"export MARK={mark}; trap '' HUP; sleep 300 & sleep 300\n")

            async def all_run() -> bool:
                return len(bearers(mark)) >= 4

            await until(all_run)
            running.process.send_signal(number)
            await asyncio.to_thread(running.process.wait, 30)
            if number == signal.SIGKILL:
                # What a killed server has left is ended by its successor.
                running = start_server(tmp_path, HOME=str(tmp_path))
        assert not bearers(mark)
    finally:
        running.stop()
