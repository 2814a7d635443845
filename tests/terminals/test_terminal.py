"""The WebSocket /terminal: a shell whose life is that of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
import uuid
from pathlib import Path

import psutil
import pytest
import websockets

from tests.files.pulse import pulse
from tests.runs import client_of
from tests.servers import Server
from tests.terminals.console import Console, bearers, console, none_open, ptys, refusal
from tests.waiting import until


async def shell(terminal: Console) -> None:
    """A prompt that stands for nothing else."""
    await terminal.type("PS1='' PS2=''; unset HISTFILE; bind 'set enable-bracketed-paste off'\n")
    await terminal.type("stty -echo; printf 'rea%s\\n' dy\n")
    await terminal.until("ready\r\n")
    terminal.text = ""


async def test_output_exit_and_a_normal_close(server: Server) -> None:
    async with console(server) as terminal:
        # As the published command-line client does it: before anything was printed.
        await terminal.type("echo $((6 * 7))\n")
        await terminal.type("exit 3\n")
        assert await terminal.until_type("exit") == {"type": "exit", "code": 3, "data": ""}
        assert "42\r\n" in terminal.text
        assert await terminal.close_code() == 1000


async def test_a_death_by_signal_is_an_exit_code(server: Server) -> None:
    async with console(server) as terminal:
        await terminal.type("kill -9 $$\n")
        assert (await terminal.until_type("exit"))["code"] == 137


async def test_where_and_with_what_it_starts(server: Server) -> None:
    async with client_of(server) as client:
        await client.patch("/env", json={"env_vars": {"FRUIT": "quince"}})
    try:
        async with console(server) as terminal:
            await shell(terminal)
            line = 'echo "$PWD|$TERM|$FRUIT|$-|$(shopt -q login_shell && echo login)"'
            await terminal.type(f"{line}; env | grep -cE '^(COLUMNS|LINES|KERNELAGENT_JWT)'\n")
            await terminal.until("\r\n0\r\n")
        place, term, fruit, flags, login = terminal.text.splitlines()[0].split("|")
        assert place == str(server.workspace)
        assert (term, fruit, login) == ("xterm-256color", "quince", "")
        assert "i" in flags
        assert "m" in flags  # jobs can be controlled: it has a terminal of its own
    finally:
        async with client_of(server) as client:
            await client.delete("/env/FRUIT")


async def test_sizes(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type("stty size\n")
        await terminal.until("24 80\r\n")
        await terminal.type("trap 'echo now $(stty size)' WINCH; echo trapped\n")
        await terminal.until("trapped\r\n")
        await terminal.send("resize", cols=132, rows=43)
        await terminal.until("now 43 132\r\n")
    async with console(server, cols=100, rows=30) as terminal:
        await terminal.type("stty size\n")
        await terminal.until("30 100\r\n")


async def test_control_c_reaches_the_program_in_the_foreground(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type("echo on; sleep 300; echo status $?\n")
        await terminal.until("on\r\n")
        await terminal.type("\x03")
        await terminal.type("echo alive $?\n")
        await terminal.until("alive 130\r\n")


@pytest.mark.parametrize("name", ["INT", "SIGTERM", "kill"])
async def test_signals_as_messages(server: Server, name: str) -> None:
    codes = {"INT": 130, "SIGTERM": 143, "kill": 137}
    async with console(server) as terminal:
        await shell(terminal)
        # No key would end it.
        await terminal.type("stty -isig; sh -c 'echo on; exec sleep 300'\n")
        await terminal.until("on\r\n")
        await terminal.send("signal", signal=name)
        await terminal.type("echo status $?\n")
        await terminal.until(f"status {codes[name]}\r\n")


async def test_characters_are_never_divided(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type(
            "printf '\\xe2'; sleep 0.3; printf '\\x82'; sleep 0.3; printf '\\xac'\n"
        )
        await terminal.until("€")
        terminal.text = ""
        await terminal.type("yes 'aé€😀' | head -n 30000; echo end\n")
        await terminal.until("end\r\n")
    assert terminal.text == "aé€😀\r\n" * 30_000 + "end\r\n"


async def test_what_is_no_utf_8(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type("printf 'a\\xff\\xe2b\\xe2'; sleep 0.1; exit\n")
        await terminal.until_type("exit")
        assert terminal.text == "a��b�exit\r\n"
    async with console(server, binary=1) as terminal:
        await terminal.type("stty -echo -opost; printf 'rea%s' dy\n")
        await terminal.until(lambda: b"ready" in terminal.raw)
        everything = bytes(range(256))
        (server.workspace / "bytes").write_bytes(everything)
        await terminal.type("cat bytes\n")
        await terminal.until(lambda: everything in terminal.raw)


async def test_input_as_bytes(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type("head -c 3 | od -An -tx1\n")
        await terminal.connection.send(b"\xff\xfe\n")
        await terminal.until("ff fe 0a")


async def test_messages_suit_published_clients(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        began = time.monotonic()
        await terminal.type("yes '\x1b[1m\u20ac' | head -c 4000000; exit\n")
        sizes = []
        kind = ""
        while kind != "exit":
            received = await terminal.connection.recv()
            sizes.append(len(received))
            kind = json.loads(received)["type"]
    assert max(sizes) < 64 * 1024
    # Arrivals can bunch up on a busy machine, but not on the whole.
    assert time.monotonic() - began >= 0.005 * (len(sizes) - 1)


async def test_many_small_outputs_are_few_messages(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        before, began = len(terminal.messages), time.monotonic()
        await terminal.type("for n in {1..300}; do echo $n; sleep 0.002; done; echo end\n")
        await terminal.until("end\r\n")
        seconds = time.monotonic() - began
    assert terminal.text.splitlines() == [*map(str, range(1, 301)), "end"]
    # A busy machine takes long to print them.
    assert len(terminal.messages) - before < max(150, seconds / 0.005)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[]", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        ("{}", "INVALID_REQUEST"),
        ('{"type": "dance"}', "INVALID_REQUEST"),
        ('{"type": "input"}', "MISSING_PARAMETER"),
        ('{"type": "input", "data": 1}', "INVALID_REQUEST"),
        ('{"type": "resize", "cols": 0, "rows": 1}', "INVALID_REQUEST"),
        ('{"type": "resize", "cols": 80, "rows": 1001}', "INVALID_REQUEST"),
        ('{"type": "resize", "cols": 80}', "MISSING_PARAMETER"),
        ('{"type": "signal", "signal": "SEGV"}', "INVALID_REQUEST"),
    ],
)
async def test_bad_messages_are_answered(server: Server, message: str, code: str) -> None:
    async with console(server) as terminal:
        await terminal.connection.send(message)
        error = await terminal.until_type("error")
        assert error["code"] == code
        assert error["error"] == error["message"]
        await terminal.type("echo go $((1 + 1))\n")
        await terminal.until("go 2")


async def test_who_may_open_one(server: Server) -> None:
    with pytest.raises(websockets.InvalidStatus) as found:
        async with websockets.connect(f"{server.websocket_url}/terminal"):
            pass
    assert found.value.response.status_code == 401
    async with websockets.connect(f"{server.websocket_url}/terminal?token={server.token}") as ours:
        await ours.recv()
    status, body = await refusal(server, "/terminal", cols=0)
    assert (status, body["code"]) == (400, "INVALID_REQUEST")


async def test_there_is_a_limit(server_with_little: Server) -> None:
    async with console(server_with_little) as first, console(server_with_little):
        status, body = await refusal(server_with_little, "/terminal")
        assert (status, body["code"]) == (409, "TERMINAL_LIMIT")
        assert body["details"] == {"limit": 2}
        await first.type("exit\n")
        await first.until_type("exit")
        async with console(server_with_little) as another:
            await another.type("echo go $((1 + 1))\n")
            await another.until("go 2")


async def test_nothing_is_left_when_the_client_leaves(server: Server) -> None:
    await none_open(server)
    mark = f"mark-{uuid.uuid4().hex}"
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type(f"export MARK={mark}\n")
        await terminal.type("sleep 300 &\nnohup sleep 300 >/dev/null 2>&1 &\n")
        await terminal.type(f"setsid sh -c 'sleep 300; echo {mark}' &\n")
        await terminal.type(f"env -i /bin/sh -c 'sleep 300; echo {mark}' &\n")
        await terminal.type(f"trap '' HUP TERM; echo $((1 + 1)){mark}; sleep 300\n")
        await terminal.until(f"2{mark}")

        async def all_run() -> bool:
            return len(bearers(mark)) >= 5

        await until(all_run)
        assert ptys(server) == 2

    async def none_is_left() -> bool:
        return not bearers(mark) and ptys(server) == 0

    await until(none_is_left)


async def test_nothing_is_left_when_the_shell_ends(server: Server) -> None:
    await none_open(server)
    mark = f"mark-{uuid.uuid4().hex}"
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type(f"env -i setsid /bin/sh -c 'sleep 300; echo {mark}' &\n")
        await terminal.type(f"env -i /bin/sh -c 'sleep 300; echo {mark}' &\ndisown -a\n")
        await terminal.type("printf 'o%s\\n' n\n")
        await terminal.until("on\r\n")
        assert bearers(mark)
        await terminal.type("exit\n")
        await terminal.until_type("exit")
        # Told only when it is so.
        assert not bearers(mark)
    assert ptys(server) == 0


async def test_a_vanished_client_is_one_that_left(server: Server) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type(f"export MARK={mark}; sleep 300 & echo on\n")
        await terminal.until("on\r\n")
        terminal.connection.transport.abort()

    async def none_is_left() -> bool:
        return not bearers(mark)

    await until(none_is_left)


def resident(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


async def test_a_client_that_does_not_read_holds_the_program_up(
    server: Server, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    (server.workspace / "flood.py").write_text(
        "import os\nn = 0\n"
        "while n < 60:\n"
        "    data = b'^' * 1000000\n"
        "    while data: data = data[os.write(1, data):]\n"
        f"    n += 1; open('{count}', 'w').write(str(n))\n"
    )
    async with console(server, options={"max_queue": 1}, binary=1) as terminal:
        before = resident(server)
        await terminal.type("stty -echo; python3 flood.py; echo e''nd\n")
        last = ""

        async def stands_still() -> bool:
            nonlocal last
            await asyncio.sleep(1)
            now = count.read_text() if count.exists() else ""
            same, last = bool(now) and now == last, now
            return same

        await until(stands_still)
        assert int(last) < 50
        assert resident(server) - before < 20 * 2**20
        # Then it goes on, and nothing was left out.
        total, frame = 0, b""
        while b"end\r\n" not in frame:
            received = await terminal.connection.recv()
            assert isinstance(received, bytes)
            frame = frame[-10:] + received
            total += received.count(b"^")
    assert total == 60_000_000


async def drain(terminal: Console) -> None:
    """Read without end, and keep nothing."""
    while True:
        await terminal.connection.recv()


async def test_a_flood_leaves_the_others_their_turns(server: Server) -> None:
    async with contextlib.AsyncExitStack() as stack:
        reading = []
        for _ in range(2):
            terminal = await stack.enter_async_context(console(server))
            await terminal.type("yes\n")
            reading.append(asyncio.create_task(drain(terminal)))
        async with pulse(server, fewest=100) as found:
            pass
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    assert statistics.median(found.worked) < 0.1
    assert sorted(found.worked)[int(len(found.worked) * 0.95)] < 1


async def test_much_input_arrives_whole(server: Server) -> None:
    lines = "".join(f"{number:0100d}\n" for number in range(30_000))
    async with console(server) as terminal:
        await shell(terminal)
        await terminal.type("cat > pasted; echo end\n")
        await terminal.type(lines)
        await terminal.type("\x04")
        await terminal.until("end\r\n")
    assert (server.workspace / "pasted").read_text() == lines


async def test_input_that_nobody_reads_is_refused(server: Server) -> None:
    async with console(server) as terminal:
        await shell(terminal)
        before = resident(server)
        await terminal.type("echo on; sleep 300\n")
        await terminal.until("on\r\n")
        piece = "x" * 99 + "\n"
        for _ in range(3):
            await terminal.type(piece * 10_000)
        error = await terminal.until_type("error")
        assert error["code"] == "TERMINAL_INPUT_FULL"
        assert error["details"]["lost_bytes"] > 0
        assert error["details"]["waiting_bytes"] < 2 * 2**20
        assert resident(server) - before < 20 * 2**20
        await terminal.send("signal", signal="INT")
        # What was taken is still read, and then what comes now.
        await terminal.until(lambda: terminal.text.count("\n") > 100)
