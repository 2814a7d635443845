"""Commands as streams: over HTTP and over a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.jobs.jobs import alive, pids_in, refused
from tests.runs import client_of
from tests.servers import Server, Service
from tests.waiting import until

Message = dict[str, Any]

STREAMS = [
    "application/x-ndjson",
    "text/event-stream",
    "application/vnd.kernelagent.frames",
]


async def streamed(server: Service, line: str, **fields: Any) -> list[Message]:
    """All messages of a shell line, keepalives too."""
    body = {"command": line, **fields}
    async with (
        client_of(server, Accept="application/x-ndjson") as client,
        client.stream("POST", "/commands/run", json=body) as response,
    ):
        assert response.status_code == 200
        return [json.loads(line) async for line in response.aiter_lines()]


def output(messages: list[Message], stream: str = "stdout") -> bytes:
    return b"".join(
        base64.b64decode(message["data_base64"])
        if "data_base64" in message
        else message["data"].encode()
        for message in messages
        if message["type"] == stream
    )


async def test_messages_in_order(server: Server) -> None:
    messages = await streamed(server, "echo out; sleep 0.1; echo err >&2; exit 3")
    kinds = [message["type"] for message in messages]
    assert kinds == ["started", "stdout", "stderr", "result", "complete"]
    result = messages[-2]
    assert (result["exit_code"], result["success"], result["outcome"]) == (3, False, "error")
    assert (result["stdout_bytes"], result["stderr_bytes"]) == (4, 4)
    assert result["pid"] > 0
    assert messages[-1]["success"] is False


async def test_events_for_browsers(server: Server) -> None:
    async with client_of(server, Accept="text/event-stream") as client:
        text = (await client.post("/commands/run", json={"command": "echo hi"})).text
    events = [
        dict(line.split(": ", 1) for line in block.splitlines())
        for block in text.split("\n\n")
        if block
    ]
    assert [event["event"] for event in events] == ["started", "stdout", "result", "complete"]
    assert json.loads(events[1]["data"])["data"] == "hi\n"


async def test_output_comes_when_it_is_printed(server: Server, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    line = f"echo first; while [ ! -e {go_on} ]; do sleep 0.02; done; echo second"
    async with (
        client_of(server, Accept="application/x-ndjson") as client,
        client.stream("POST", "/commands/run", json={"command": line}) as response,
    ):
        found = []
        async for text in response.aiter_lines():
            message = json.loads(text)
            if message["type"] == "stdout":
                found.append(message["data"])
                go_on.touch()
    assert found == ["first\n", "second\n"]


async def test_silence_is_filled(server_with_little: Service) -> None:
    messages = await streamed(server_with_little, "sleep 0.7")
    assert [message["type"] for message in messages].count("keepalive") >= 2


async def test_much_output_passes_whole(server: Server) -> None:
    messages = await streamed(server, "seq 1000000; printf '\\xff'; printf 'é' >&2")
    expected = b"".join(b"%d\n" % n for n in range(1, 1_000_001)) + b"\xff"
    assert output(messages) == expected
    assert output(messages, "stderr") == "é".encode()
    assert max(len(json.dumps(message)) for message in messages) < 2**20


@pytest.mark.parametrize("byte", ["\\x01", "\\xff", "\\xc3\\xa9"])
async def test_no_message_is_too_long_for_clients(server: Server, byte: str) -> None:
    program = f"import os; data = b'{byte}' * 400_000\nwhile data: data = data[os.write(1, data):]"
    messages = await streamed(server, f'python3 -c "{program}"')
    assert max(len(json.dumps(message)) for message in messages) < 2**20
    assert output(messages) == byte.encode().decode("unicode_escape").encode("latin-1") * 400_000


async def test_a_slow_client_slows_the_command(server: Server, tmp_path: Path) -> None:
    count = tmp_path / "count"
    line = (
        "python3 -c \"import os\nn = 0\nwhile n < 500: n += os.write(1, b'x' * 1000000) // 1000000;"
        f" open('{count}', 'w').write(str(n))\""
    )
    async with (
        client_of(server, Accept="application/x-ndjson") as client,
        client.stream("POST", "/commands/run", json={"command": line, "timeout": 100}) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        before = ""
        # Until it has stopped, as nobody reads.
        while not count.exists() or count.read_text() != before:
            before = count.read_text() if count.exists() else ""
            await asyncio.sleep(0.5)
        assert int(before) < 200


async def test_a_client_that_leaves_ends_it(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f"echo $$ > {pids}; sleep 300 & echo $! >> {pids}; wait"
    async with (
        client_of(server, Accept="application/x-ndjson") as client,
        client.stream("POST", "/commands/run", json={"command": line, "timeout": 200}),
    ):
        found = await pids_in(pids, 2)
    await until(lambda: not any(map(alive, found)))


@pytest.mark.parametrize("accept", STREAMS)
async def test_what_comes_after_its_client_has_left_is_not_kept(
    accept: str, server_at_leisure: Server, tmp_path: Path
) -> None:
    server = server_at_leisure
    pids = tmp_path / "pids"
    line = (
        f"trap '' TERM; echo $$ > {pids}; sleep 0.2; "
        "for i in {1..40}; do head -c 4000000 /dev/zero; sleep 0.01; done; sleep 100"
    )
    async with (
        client_of(server, Accept=accept) as client,
        client.stream("POST", "/commands/run", json={"command": line, "timeout": 200}),
    ):
        (pid,) = await pids_in(pids, 1)
        before = psutil.Process(server.process.pid).memory_info().rss

    most = 0

    def has_ended() -> bool:
        nonlocal most
        most = max(most, psutil.Process(server.process.pid).memory_info().rss)
        return not alive(pid)

    await until(has_ended)
    assert most - before < 40e6


@pytest.mark.parametrize("accept", STREAMS)
async def test_what_is_wrong_is_an_error_before_the_stream(
    server: Server, server_with_little: Service, tmp_path: Path, accept: str
) -> None:
    async with client_of(server, Accept=accept) as client:
        body = {"command": "true", "workdir": "/no/such"}
        await refused(await client.post("/commands/run", json=body), 400, "DIRECTORY_NOT_FOUND")
    async with client_of(server_with_little, Accept=accept) as client:

        async def none_runs() -> bool:
            metrics = (await client.get("/metrics")).json()
            return bool(metrics["commands"]["running"] == 0)

        # Commands of the client that has just left are still ending.
        await until(none_runs)
        wait = {"command": "sleep 100", "timeout": 100}
        async with (
            client.stream("POST", "/commands/run", json=wait) as first,
            client.stream("POST", "/commands/run", json=wait) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            response = await client.post("/commands/run", json={"command": "true"})
            await refused(response, 409, "COMMAND_LIMIT")


@pytest.mark.parametrize("accept", STREAMS)
async def test_of_many_at_once_those_beyond_the_limit_are_errors(
    server_with_little: Service, accept: str
) -> None:
    statuses: list[int] = []
    enough = asyncio.Event()
    async with client_of(server_with_little, Accept=accept) as client:

        async def ask() -> None:
            body = {"command": "sleep 100", "timeout": 100}
            async with client.stream("POST", "/commands/run", json=body) as response:
                statuses.append(response.status_code)
                await enough.wait()

        async def none_runs() -> bool:
            metrics = (await client.get("/metrics")).json()
            return bool(metrics["commands"]["running"] == 0)

        await until(none_runs)
        asked = asyncio.gather(*(ask() for _ in range(6)))
        await until(lambda: len(statuses) == 6)
        enough.set()
        await asked
        await until(none_runs)
    assert sorted(statuses) == [200, 200, 409, 409, 409, 409]


async def test_frames_have_the_very_bytes(server: Server) -> None:
    line = "head -c 3000000 /dev/urandom | tee copy; printf 'é\\xff' >&2; exit 5"
    async with client_of(server, Accept="application/vnd.kernelagent.frames") as client:
        response = await client.post("/commands/run", json={"command": line})
    assert response.headers["content-type"] == "application/vnd.kernelagent.frames"
    data, frames = response.content, []
    while data:
        kind, zeros, size = data[0], data[1:4], int.from_bytes(data[4:8], "big")
        assert zeros == bytes(3)
        frames.append((kind, data[8 : 8 + size]))
        data = data[8 + size :]
    written = {kind: b"".join(content for k, content in frames if k == kind) for kind in (1, 2)}
    assert written[1] == (server.workspace / "copy").read_bytes()
    assert written[2] == b"\xc3\xa9\xff"
    assert frames[-1][0] == 4
    result = json.loads(frames[-1][1])
    assert (result["exit_code"], result["stdout_bytes"]) == (5, 3_000_000)


# WebSocket


async def ask(socket: ClientConnection, **wanted: Any) -> list[Message]:
    """All messages of one command."""
    await socket.send(json.dumps(wanted))
    messages = []
    while True:
        messages.append(json.loads(await socket.recv()))
        if messages[-1]["type"] == "complete":
            return messages


def opened(server: Server) -> connect:
    return connect(f"{server.websocket_url}/commands/stream", additional_headers=server.headers)


async def test_a_message_may_come_in_a_binary_frame(server: Server) -> None:
    async with opened(server) as socket:
        await socket.send(json.dumps({"command": "echo 1"}).encode())
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1]["type"] != "complete":
            messages.append(json.loads(await socket.recv()))
    assert [message["type"] for message in messages] == ["started", "stdout", "result", "complete"]
    assert len({message["command_id"] for message in messages if "command_id" in message}) == 1


async def test_several_commands_on_one_socket(server: Server) -> None:
    async with opened(server) as socket:
        for n in range(3):
            messages = await ask(
                socket, type="execute", command="bash", args=["-c", f"echo {n}; exit {n}"]
            )
            assert output(messages) == f"{n}\n".encode()
            assert messages[-2]["exit_code"] == n
            assert messages[-1] == {**messages[-1], "type": "complete", "success": n == 0}


async def test_long_output_in_messages_that_clients_can_take(server: Server) -> None:
    async with opened(server) as socket:
        messages = await ask(socket, command="yes é | head -c 300000")
    assert output(messages) == ("é\n" * 100_000).encode()
    assert max(len(json.dumps(message)) for message in messages) < 64 * 1024


async def test_messages_are_some_milliseconds_apart(server: Server) -> None:
    async with opened(server) as socket:
        begun = time.monotonic()
        await socket.send(json.dumps({"command": "yes | head -c 1000000"}))
        number = 1
        while json.loads(await socket.recv())["type"] != "complete":
            number += 1
    # Arrivals can bunch up on a busy machine, but not on the whole.
    assert time.monotonic() - begun >= 0.005 * (number - 1)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("[]", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ("[" * 200_000, "INVALID_JSON"),
        (b"\xff", "INVALID_JSON"),
        (b"{}", "MISSING_PARAMETER"),
        ("{}", "MISSING_PARAMETER"),
        (r'{"command": "cat", "stdin": "\ud800"}', "INVALID_REQUEST"),
        (r'{"command": "cat", "env": {"A": "\ud800"}}', "INVALID_REQUEST"),
        ('{"command": "true", "workdir": "/no/such"}', "DIRECTORY_NOT_FOUND"),
    ],
)
async def test_bad_messages_are_answered(server: Server, message: str | bytes, code: str) -> None:
    async with opened(server) as socket:
        await socket.send(message)
        error, complete = [json.loads(await socket.recv()) for _ in range(2)]
        assert (error["type"], error["code"]) == ("error", code)
        assert (complete["type"], complete["success"]) == ("complete", False)
        assert output(await ask(socket, command="echo on")) == b"on\n"


async def test_an_interrupt_ends_the_command(server: Server, tmp_path: Path) -> None:
    async with opened(server) as socket:
        await socket.send(json.dumps({"command": "echo on; sleep 300", "timeout": 200}))
        while json.loads(await socket.recv())["type"] != "stdout":
            pass
        await socket.send(json.dumps({"type": "interrupt"}))
        messages = [json.loads(await socket.recv())]
        while messages[-1]["type"] != "complete":
            messages.append(json.loads(await socket.recv()))
    assert messages[-2]["exit_code"] == 143


async def test_an_interrupt_ends_a_command_that_has_not_begun(server: Server) -> None:
    for _ in range(20):
        async with opened(server) as socket:
            await socket.send(json.dumps({"command": "sleep 300", "timeout": 200}))
            await socket.send(json.dumps({"type": "interrupt"}))
            messages = [json.loads(await socket.recv())]
            while messages[-1]["type"] != "complete":
                messages.append(json.loads(await socket.recv()))
            assert messages[-2]["exit_code"] == 143
            # It was for that one, and for none that comes later.
            assert output(await ask(socket, command="echo on")) == b"on\n"


async def test_an_interrupt_while_only_bad_messages_wait_hits_no_later_command(
    server: Server,
) -> None:
    bad = 20
    async with opened(server) as socket:
        for _ in range(bad):
            await socket.send("[]")
        # Their answers are paced: most of them still wait when it arrives.
        await socket.send(json.dumps({"type": "interrupt"}))
        kinds = [json.loads(await socket.recv())["type"] for _ in range(2 * bad)]
        assert kinds == ["error", "complete"] * bad
        assert output(await ask(socket, command="sleep 0.1; echo on")) == b"on\n"


async def test_leaving_the_socket_ends_the_command(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with opened(server) as socket:
        await socket.send(
            json.dumps({"command": f"echo $$ > {pids}; exec sleep 300", "timeout": 200})
        )
        (pid,) = await pids_in(pids, 1)
    await until(lambda: not alive(pid))
