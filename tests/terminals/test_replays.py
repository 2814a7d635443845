"""What was missed of a named terminal is shown, as far as it is kept."""

from __future__ import annotations

import random
import re
import statistics
from pathlib import Path

from tests.files.pulse import pulse
from tests.servers import Server
from tests.terminals.console import (
    console,
    info,
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

        await until(is_done)
        await mine.until("last\r\n")
        skipped = [item for item in mine.messages if item["type"] == "skipped"]
        assert skipped
        # It may have printed much before this client came.
        position = first = mine.messages[0]["offset"]
        for item in mine.messages[1:]:
            if item["type"] == "skipped":
                position += item["bytes"]
            assert item["offset"] == position
            if item["type"] == "output":
                assert item["next_offset"] - position == len(item["data"].encode())
                position = item["next_offset"]
        lost = sum(item["bytes"] for item in skipped)
        assert first + lost + len(mine.text.encode()) == 30_000_000 + len("\r\nlast\r\n")


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
    async with terminal(server, command="yes", args=[]) as path:
        async with pulse(server, fewest=50) as found:
            pass
        assert statistics.median(found.worked) < 0.05
        facts = await info(server, path)
        assert facts["end_offset"] - facts["oldest_offset"] <= 2**20
