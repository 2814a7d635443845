"""A command by itself, against sinks that take their time."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from kernelagent.commands import command as module
from kernelagent.commands.command import Command, CommandSpec
from kernelagent.outcome import Outcome
from kernelagent.processes.process import Program, kill_marked
from tests.waiting import PATIENCE, until

# More than a sink takes before it is waited for; and what fits into the pipe after that.
_FIRST = 1_500_000
_LAST = 500_000


class SlowSink:
    """Takes a piece, and the next one only when it is told to."""

    def __init__(self) -> None:
        self.taken = 0
        self.backlog_bytes = 0
        self.full = asyncio.Event()
        self.may_go_on = asyncio.Event()

    def write(self, _: str, data: bytes) -> None:
        self.taken += len(data)
        self.backlog_bytes += len(data)

    async def drained(self) -> None:
        self.full.set()
        await self.may_go_on.wait()
        self.backlog_bytes = 0


def spec_of(tmp_path: Path, program: str, *, timeout: float = PATIENCE) -> CommandSpec:
    argv = (sys.executable, "-c", program)
    marker = uuid.uuid4().hex[:16]
    return CommandSpec(Program(argv, dict(os.environ), tmp_path, marker), timeout, 0.5)


def printing(size: int) -> str:
    return f"import sys; sys.stdout.buffer.write(b'x' * {size}); sys.stdout.flush()"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short wait for last words, so that it is over while the sink is still full."""
    monkeypatch.setattr(module, "_LAST_WORDS", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_a_sink_that_takes_its_time_gets_all_of_it(tmp_path: Path) -> None:
    sink = SlowSink()
    ended = asyncio.Event()
    go_on = tmp_path / "go on"
    program = (
        f"import os, sys, time\nout = sys.stdout.buffer\nout.write(b'x' * {_FIRST})\nout.flush()\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        f"out.write(b'y' * {_LAST})\n"
    )
    work = asyncio.create_task(
        Command(spec_of(tmp_path, program), sink).go(lambda pid: _watch(pid, ended))
    )
    await asyncio.wait_for(sink.full.wait(), PATIENCE)
    go_on.touch()
    await asyncio.wait_for(ended.wait(), PATIENCE)
    # Far longer than the last words may take.
    done, _ = await asyncio.wait([work], timeout=0.3)
    assert not done
    assert sink.taken < _FIRST + _LAST
    sink.may_go_on.set()

    ending = await asyncio.wait_for(work, PATIENCE)

    assert (ending.outcome, ending.exit_code) == (Outcome.OK, 0)
    assert sink.taken == _FIRST + _LAST


@pytest.mark.usefixtures("hasty")
async def test_who_keeps_the_pipe_does_not_keep_the_command(tmp_path: Path) -> None:
    # As one that hangs inside the system would: it is in no group and has no mark of ours.
    program = """if True:
        import os, sys, time
        print("said", flush=True)
        begun, closed_by_execve = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [sys.executable, "-c",
                    "import time; time.sleep(600)"], {"LEFT": sys.argv[1]})
            os._exit(0)
        os.wait()
        # Until then it has our mark.
        os.close(closed_by_execve)
        os.read(begun, 1)
    """
    mark = uuid.uuid4().hex
    spec = spec_of(tmp_path, program)
    marked = replace(spec.program, argv=(*spec.program.argv, mark))
    spec = replace(spec, program=marked)
    sink = SlowSink()
    try:
        ending = await asyncio.wait_for(Command(spec, sink).go(lambda _: None), PATIENCE)
        assert ending.outcome is Outcome.OK
        assert sink.taken == len("said\n")
    finally:
        assert await asyncio.to_thread(kill_marked, mark, "LEFT") == 1


async def test_a_cancelled_command_lets_go_of_its_pipes(tmp_path: Path) -> None:
    sink = SlowSink()
    before = _pipes()
    work = asyncio.create_task(
        Command(spec_of(tmp_path, printing(10 * _FIRST)), sink).go(lambda _: None)
    )
    await asyncio.wait_for(sink.full.wait(), PATIENCE)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        # The first waits for the process, the second for the sink.
        while not work.done():
            await asyncio.wait([work], timeout=0.2)
            work.cancel()
        await work
    await until(lambda: _pipes() == before)


def _watch(pid: int, ended: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)

    def note() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        ended.set()

    loop.add_reader(pidfd, note)


def _pipes() -> int:
    # A descriptor of the listing itself is gone by the time it is asked for.
    links = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sum(str(link).startswith("pipe:") for link in links)
