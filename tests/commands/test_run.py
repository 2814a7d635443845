"""POST /commands/run on real processes."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.jobs import alive, pids_in, post, refused
from tests.runs import client_of
from tests.servers import Server, Service
from tests.waiting import until

Message = dict[str, Any]


async def sh(server: Service, line: str, **fields: Any) -> Message:
    """The answer to a shell line, sent as published clients send it."""
    return await post(server, "/commands/run", command="bash", args=["-c", line], **fields)


async def test_the_answer_has_what_clients_read(server: Server) -> None:
    answer = await sh(server, "echo out; echo err >&2", timeout=30, env=None)

    assert (answer["stdout"], answer["stderr"], answer["exit_code"]) == ("out\n", "err\n", 0)
    assert answer["success"] is True
    assert isinstance(answer["execution_time"], float)
    assert answer["command"] == "bash -c echo out; echo err >&2"
    assert answer["pid"] > 0
    assert answer["timestamp"].endswith("Z")
    assert answer["truncated"] is False
    assert [name for name, value in answer.items() if value is None] == []


@pytest.mark.parametrize("code", [1, 3, 127, 255])
async def test_any_exit_code_is_an_answer(server: Server, code: int) -> None:
    answer = await sh(server, f"echo before; exit {code}")
    assert (answer["success"], answer["exit_code"]) == (False, code)
    assert (answer["outcome"], answer["stdout"], answer["message"]) == ("error", "before\n", "")


async def test_a_line_is_for_the_shell_and_a_vector_is_not(server: Server) -> None:
    line = await post(server, "/commands/run", command="echo $((6 * 7)) | cat")
    vector = await post(server, "/commands/run", command="printf", args=["%s|", "$HOME", "a b"])
    assert (line["stdout"], vector["stdout"]) == ("42\n", "$HOME|a b|")


async def test_directory_and_environment(server: Server) -> None:
    (server.workspace / "here").mkdir(exist_ok=True)
    answer = await sh(server, 'pwd; echo "$X"', workdir="here", env={"X": "'\"\n"})
    assert answer["stdout"] == f"{server.workspace}/here\n'\"\n\n"
    assert (await sh(server, "pwd"))["stdout"] == f"{server.workspace}\n"
    names = (await sh(server, "env"))["stdout"]
    assert "JWT" not in names


async def test_input_is_read(server: Server) -> None:
    text = "".join(f"line {n} é\n" for n in range(100_000))
    answer = await sh(server, "wc -lc", stdin=text)
    assert answer["stdout"].split() == ["100000", str(len(text.encode()))]
    # One that does not read it is no error.
    assert (await sh(server, "true", stdin=text))["exit_code"] == 0
    assert (await sh(server, "cat"))["stdout"] == ""


async def test_a_time_limit_ends_all_of_it(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = (
        f"trap '' TERM; sleep 300 & echo $! > {pids}; echo $$ >> {pids}; echo on; wait; sleep 300"
    )
    answer = await sh(server, line, timeout=0.5)

    assert (answer["success"], answer["exit_code"], answer["stdout"]) == (False, 124, "on\n")
    assert (answer["timed_out"], answer["code"]) == (True, "EXECUTION_TIMEOUT")
    assert "time limit of 0.5 s" in answer["stderr"]
    assert not any(map(alive, await pids_in(pids, 2)))


async def test_a_signal_is_told(server: Server) -> None:
    answer = await sh(server, "kill -ABRT $$")
    assert answer["exit_code"] == 134
    assert "SIGABRT" in answer["stderr"]


async def test_what_stays_behind_is_ended(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f"(setsid sleep 300 & echo $! > {pids}); sleep 300 & echo $! >> {pids}; echo done"
    answer = await sh(server, line)
    assert answer["stdout"] == "done\n"
    assert not any(map(alive, await pids_in(pids, 2)))


async def test_bytes_that_are_no_text_survive(server: Server) -> None:
    answer = await sh(server, r"printf 'a\xff\0b'; printf 'fine' >&2")
    assert base64.b64decode(answer["stdout_base64"]) == b"a\xff\0b"
    assert answer["stdout"] == "a\N{REPLACEMENT CHARACTER}\0b"
    assert "stderr_base64" not in answer


async def test_much_output_goes_to_a_file(server: Server) -> None:
    answer = await sh(server, "yes é | head -c 3000000; seq 100000 >&2", max_output_bytes=100_001)
    everything = ("é\n" * 1_000_000).encode()

    truncation = answer["truncation"]
    assert answer["truncated"] is True
    assert truncation["stdout_bytes"] == 3_000_000
    assert truncation["stderr_bytes"] == 588_895
    assert truncation["total_bytes"] == 3_588_895
    assert truncation["kept_bytes"] <= 100_001
    assert truncation["lost_bytes"] == 0
    files = {Path(file["path"]).name: Path(file["path"]) for file in truncation["files"]}
    head, _, marker = answer["stdout"].partition("\n[kernelagent: ")
    assert str(files["stdout.txt"]) in marker
    assert files["stdout.txt"].parent.name == answer["command_id"]
    assert head.encode() + files["stdout.txt"].read_bytes() == everything
    assert "stdout_base64" not in answer


async def test_a_gigabyte_takes_little_memory(server_at_leisure: Server) -> None:
    server = server_at_leisure
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    highest = 0
    work = asyncio.create_task(sh(server, "yes | head -c 1G", timeout=100))
    while not work.done():
        highest = max(highest, process.memory_info().rss)
        await asyncio.sleep(0.02)
    answer = await work

    truncation = answer["truncation"]
    assert truncation["stdout_bytes"] == 2**30
    (file,) = truncation["files"]
    assert file["bytes"] + truncation["kept_bytes"] == 2**30
    assert Path(file["path"]).stat().st_size == file["bytes"]
    Path(file["path"]).unlink()
    assert highest - before < 100 * 2**20


async def test_a_client_that_leaves_ends_it(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f"echo $$ > {pids}; exec sleep 300"
    body = {"command": "bash", "args": ["-c", line], "timeout": 200}
    async with client_of(server) as client:
        leaving = asyncio.create_task(client.post("/commands/run", json=body))
        (pid,) = await pids_in(pids, 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    await until(lambda: not alive(pid))


@pytest.mark.parametrize(
    ("command", "exit_code"), [("/no/such/program", 127), ("/etc/passwd", 126)]
)
async def test_what_cannot_be_started_is_told(server: Server, command: str, exit_code: int) -> None:
    answer = await post(server, "/commands/run", command=command, args=["x"])
    assert (answer["success"], answer["exit_code"], answer["pid"]) == (False, exit_code, 0)
    assert command in answer["stderr"]


async def test_bad_commands_are_refused(server: Server) -> None:
    async with client_of(server) as client:
        for body, code in (
            ({}, "MISSING_PARAMETER"),
            ({"command": ""}, "INVALID_REQUEST"),
            ({"command": "a\0b"}, "INVALID_REQUEST"),
            ({"command": "a", "args": ["\0"]}, "INVALID_REQUEST"),
            ({"command": "a", "args": "b"}, "INVALID_REQUEST"),
            ({"command": "a", "timeout": 0}, "INVALID_REQUEST"),
            ({"command": "a", "workdir": "/no/such"}, "DIRECTORY_NOT_FOUND"),
        ):
            await refused(await client.post("/commands/run", json=body), 400, code)


async def test_many_at_once(server: Server) -> None:
    answers = await asyncio.gather(*(sh(server, f"sleep 0.2; echo {n}") for n in range(50)))
    assert [answer["stdout"] for answer in answers] == [f"{n}\n" for n in range(50)]


async def test_only_so_many_run(server_with_little: Service, tmp_path: Path) -> None:
    server = server_with_little
    pids = tmp_path / "pids"
    body = {"command": f"echo $$ >> {pids}; exec sleep 200"}
    async with client_of(server) as client:
        running = [asyncio.create_task(client.post("/commands/run", json=body)) for _ in range(2)]
        await pids_in(pids, 2)
        response = await client.post("/commands/run", json={"command": "true"})
        assert (await refused(response, 409, "COMMAND_LIMIT"))["details"] == {"limit": 2}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

        async def has_room() -> bool:
            response = await client.post("/commands/run", json={"command": "true"})
            return bool(response.status_code == 200)

        await until(has_room)
