"""How named terminals end, and what is forgotten of them."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from kernelagent.terminals import service
from tests.servers import WITHOUT_KERNELS, Server, serving_in_process, start_server
from tests.terminals.console import (
    QUIET,
    attempt,
    bearers,
    call,
    console,
    info,
    none_open,
    ptys,
    terminal,
)
from tests.waiting import PATIENCE, until


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
    server = await asyncio.to_thread(
        start_server, tmp_path, python=quiet, HOME=str(tmp_path), **WITHOUT_KERNELS
    )
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


async def test_names_count_against_the_limit(server_with_little: Server) -> None:
    server = server_with_little
    async with terminal(server), console(server):
        refused = await attempt(server, "POST")
        assert (refused.status_code, refused.json()["code"]) == (409, "TERMINAL_LIMIT")


class Clock:
    """The clock by which terminals grow old, which can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return time.monotonic() + self.ahead

    async def is_looked_at(self) -> None:
        """Wait until it was looked at twice: whatever is too old has been seen to."""
        seen = self.looks
        await until(lambda: self.looks >= seen + 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(service, "time", clock)
    monkeypatch.setattr(service, "_SWEEP_INTERVAL", 0.02)
    return clock


async def test_what_is_too_old_goes(tmp_path: Path, clock: Clock) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    settings = {
        "terminal_idle_timeout": 3600,
        "terminal_keep": 36000,
        "pool_idle": 0,
        "fork_server": False,
    }
    with serving_in_process(tmp_path, **settings) as server:
        before = ptys(server)
        async with terminal(server, command="sleep 300", args=None, env={"MARK": mark}) as idle:
            async with console(server, idle) as mine:
                # Not idle as long as a client is there.
                clock.ahead = 3700
                await clock.is_looked_at()
                assert (await info(server, idle))["status"] == "running"
                await mine.send("resize", cols=90, rows=20)
                clock.ahead = 0

            async def is_left() -> bool:
                return not (await info(server, idle))["attached"]

            await until(is_left)
            clock.ahead = 3500
            await clock.is_looked_at()
            assert (await info(server, idle))["status"] == "running"
            clock.ahead = 3700

            async def has_ended() -> bool:
                return bool((await info(server, idle))["status"] == "ended")

            await until(has_ended)
            assert (await info(server, idle))["exit_code"] == 129
            assert not bearers(mark)
            assert ptys(server) == before
            clock.ahead = 40_000

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
    running = await asyncio.to_thread(start_server, tmp_path, HOME=str(tmp_path), **WITHOUT_KERNELS)
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
            await asyncio.to_thread(running.process.wait, PATIENCE)
            if number == signal.SIGKILL:
                # What a killed server has left is ended by its successor.
                running = await asyncio.to_thread(
                    start_server, tmp_path, HOME=str(tmp_path), **WITHOUT_KERNELS
                )
        assert not bearers(mark)
    finally:
        running.stop()
