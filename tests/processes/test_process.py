"""Child processes: how they end is known at once, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from kernelagent.isolation.confinement import Confinement, Needs
from kernelagent.processes.environment import Environment
from kernelagent.processes.process import (
    PLAIN,
    ChildProcess,
    ExitStatus,
    Program,
    Starter,
    kill_marked,
)
from kernelagent.processes.usage import resident_memory, tree_memory
from kernelagent.settings import Settings
from tests.waiting import until

# Children tell by files what they have done; the directory is their working directory.
SAY = """
import os, pathlib, signal, subprocess, sys, time
def say(name, text=""):
    pathlib.Path(name + ".new").write_text(str(text))
    os.rename(name + ".new", name)
"""


class Start(Protocol):
    """Starts Python code as a child that is killed after the test."""

    def __call__(self, code: str, *, marker: str = ...) -> ChildProcess: ...


@pytest.fixture(params=["itself", "spawner"])
async def starter(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Starter]:
    """What starts processes: this one, or the spawner for it."""
    if request.param == "itself":
        yield PLAIN
        return
    confinement = Confinement(settings)
    settings.workspace.mkdir()
    await confinement.open(Needs(sys.executable, []), Environment())
    assert confinement.starter is confinement
    yield confinement
    await confinement.close()


@pytest.fixture
async def start(tmp_path: Path, starter: Starter) -> AsyncIterator[Start]:
    children: list[ChildProcess] = []

    def start(code: str, *, marker: str = "") -> ChildProcess:
        argv = [sys.executable, "-S", "-c", SAY + code]
        marker = marker or uuid.uuid4().hex
        child = ChildProcess.start(Program(argv, dict(os.environ), tmp_path, marker), starter)
        children.append(child)
        return child

    yield start
    for child in children:
        await child.kill()


async def said(path: Path) -> str:
    """What a child wrote to `path`, once it is there."""
    await until(path.exists)
    return path.read_text()


def gone(pid: int) -> bool:
    """Whether a process does not run any more."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def children_of_ours() -> set[int]:
    """Our children, zombies included."""
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (ExitStatus(code=0), "exit code 0"),
        (ExitStatus(code=3), "exit code 3"),
        (ExitStatus(signal=9), "signal 9 (SIGKILL)"),
        (ExitStatus(signal=11), "signal 11 (SIGSEGV)"),
        (ExitStatus(signal=40), "signal 40 (unknown)"),
    ],
)
def test_an_end_is_described(status: ExitStatus, phrase: str) -> None:
    assert status.describe() == phrase


@pytest.mark.parametrize("code", [0, 1, 3, 255])
async def test_an_exit_code_is_known(start: Start, code: int) -> None:
    child = start(f"sys.exit({code})")
    assert await child.exited == ExitStatus(code=code)
    assert not child.running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
async def test_a_deadly_signal_is_known(start: Start, number: int) -> None:
    child = start(f"os.kill(os.getpid(), {int(number)})")
    assert await child.exited == ExitStatus(signal=number)


async def test_a_death_is_noticed_while_others_live(start: Start) -> None:
    dying, living = start("time.sleep(0.2)"), start("time.sleep(60)")
    await asyncio.wait([dying.exited, living.exited], return_when=asyncio.FIRST_COMPLETED)
    assert dying.exited.done()
    assert living.running


async def test_a_death_is_noticed_although_a_grandchild_holds_stderr_open(start: Start) -> None:
    child = start("subprocess.Popen(['sleep', '60'], start_new_session=True)")
    assert await child.exited == ExitStatus(code=0)


async def test_a_child_has_its_directory_environment_and_session(
    start: Start, tmp_path: Path
) -> None:
    child = start(
        "marker = os.environ['KERNELAGENT_PROCESS']\n"
        "say('seen', [os.getcwd(), marker, os.getsid(0), os.getpgid(0)])",
        marker="mine",
    )
    assert await said(tmp_path / "seen") == str([str(tmp_path), "mine", child.pid, child.pid])


async def test_a_child_reads_and_writes_nothing_of_ours(start: Start, tmp_path: Path) -> None:
    start("print('x', flush=True); say('input', repr(sys.stdin.read()))")
    assert await said(tmp_path / "input") == "''"


async def test_signals_reach_the_process_or_its_whole_group(start: Start, tmp_path: Path) -> None:
    child = start(
        "signal.signal(signal.SIGINT, lambda *_: say('parent'))\n"
        "if os.fork() == 0:\n"
        "    signal.signal(signal.SIGINT, lambda *_: say('child'))\n"
        "    say('ready')\n"
        "while True: time.sleep(1)\n"
    )
    await said(tmp_path / "ready")
    child.send_signal(signal.SIGINT)
    await said(tmp_path / "parent")
    assert not (tmp_path / "child").exists()
    child.send_signal(signal.SIGINT, group=True)
    await said(tmp_path / "child")


async def test_a_signal_to_a_process_that_has_ended_does_nothing(start: Start) -> None:
    child = start("")
    await child.exited
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGTERM, group=True)


async def test_kill_ends_the_whole_group(start: Start, tmp_path: Path) -> None:
    child = start("say('pid', subprocess.Popen(['sleep', '60']).pid); time.sleep(60)")
    grandchild = int(await said(tmp_path / "pid"))
    await child.kill()
    assert await child.exited == ExitStatus(signal=signal.SIGKILL)
    await until(lambda: gone(grandchild))


async def test_kill_ends_a_process_that_ignores_every_other_signal(
    start: Start, tmp_path: Path
) -> None:
    child = start(
        "for n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\nsay('ready'); time.sleep(60)"
    )
    await said(tmp_path / "ready")
    child.send_signal(signal.SIGTERM)
    await child.kill()
    assert not child.running


async def test_kill_ends_a_stopped_process(start: Start, tmp_path: Path) -> None:
    child = start("say('ready'); os.kill(os.getpid(), signal.SIGSTOP)")
    await said(tmp_path / "ready")
    await child.kill()
    assert await child.exited == ExitStatus(signal=signal.SIGKILL)


async def test_kill_ends_a_grandchild_in_a_session_of_its_own(start: Start, tmp_path: Path) -> None:
    child = start(
        "process = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "say('pid', process.pid); time.sleep(60)"
    )
    grandchild = int(await said(tmp_path / "pid"))
    await child.kill()
    await until(lambda: gone(grandchild))


async def test_kill_ends_a_daemon_whose_parents_have_gone(start: Start, tmp_path: Path) -> None:
    child = start(
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        say('pid', os.getpid())\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
    )
    daemon = int(await said(tmp_path / "pid"))
    await child.exited
    assert not gone(daemon)
    await child.kill()
    await until(lambda: gone(daemon))


async def test_the_group_ends_with_its_leader(start: Start, tmp_path: Path) -> None:
    child = start("say('pid', subprocess.Popen(['sleep', '60']).pid)")
    grandchild = int(await said(tmp_path / "pid"))
    await child.exited
    await until(lambda: gone(grandchild))


async def test_kill_spares_what_carries_another_marker(start: Start, tmp_path: Path) -> None:
    marker = uuid.uuid4().hex
    one = start("time.sleep(60)", marker=marker)
    other = start("time.sleep(60)", marker=f"{marker}-other")
    await one.kill()
    assert other.running
    assert not gone(other.pid)


async def test_kill_may_be_repeated(start: Start) -> None:
    child = start("time.sleep(60)")
    await asyncio.gather(child.kill(), child.kill())
    await child.kill()
    assert await child.exited == ExitStatus(signal=signal.SIGKILL)


async def test_the_number_of_marked_processes_is_told(start: Start, tmp_path: Path) -> None:
    marker = uuid.uuid4().hex
    start(
        "for n in range(3):\n"
        "    process = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "say('ready')",
        marker=marker,
    )
    await said(tmp_path / "ready")
    assert await asyncio.to_thread(kill_marked, uuid.uuid4().hex) == 0
    assert await asyncio.to_thread(kill_marked, marker) in (3, 4)
    assert await asyncio.to_thread(kill_marked, marker) == 0


async def test_the_end_of_stderr_is_kept(start: Start) -> None:
    child = start("print('first'); print('last words', file=sys.stderr)")
    await child.exited
    assert child.stderr_tail == "last words\n"


async def test_stderr_can_be_asked_for_while_the_process_runs(start: Start, tmp_path: Path) -> None:
    child = start("os.write(2, b'a \\xff b'); say('ready'); time.sleep(60)")
    await said(tmp_path / "ready")
    assert child.stderr_tail == "a \ufffd b"


async def test_a_flood_on_stderr_blocks_nobody_and_fills_nothing(
    start: Start, tmp_path: Path
) -> None:
    child = start(
        "for n in range(10_000): os.write(2, b'%7d ' % n * 128)\n"
        "os.write(2, b'the end'); say('done'); time.sleep(60)"
    )
    assert await said(tmp_path / "done") == ""
    assert child.running
    tail = child.stderr_tail
    assert tail.endswith(f"{9999:7} the end")
    assert len(tail) == 16 * 1024


async def test_a_process_that_closes_its_stderr_is_followed_to_its_end(start: Start) -> None:
    child = start("os.write(2, b'x'); os.close(2); time.sleep(0.1); os._exit(5)")
    assert await child.exited == ExitStatus(code=5)
    assert child.stderr_tail == "x"


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path, starter: Starter) -> None:
    def start(program: str | Path, cwd: Path) -> None:
        ChildProcess.start(Program([str(program)], {}, cwd, "x"), starter)

    descriptors, children = open_descriptors(), children_of_ours()
    with pytest.raises(FileNotFoundError):
        start(tmp_path / "missing", tmp_path)
    with pytest.raises(FileNotFoundError):
        start(sys.executable, tmp_path / "missing")
    with pytest.raises(PermissionError):
        start(tmp_path, tmp_path)
    assert (open_descriptors(), children_of_ours()) == (descriptors, children)


async def test_a_process_that_cannot_be_watched_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starter: Starter
) -> None:
    def no_descriptors(_: int) -> int:
        raise OSError(24, "Too many open files")

    descriptors, children = open_descriptors(), children_of_ours()
    monkeypatch.setattr(os, "pidfd_open", no_descriptors)
    with pytest.raises(OSError, match="Too many"):
        ChildProcess.start(Program(["/bin/sleep", "60"], {}, tmp_path, "x"), starter)
    assert (open_descriptors(), children_of_ours()) == (descriptors, children)


async def test_children_that_ended_leave_neither_zombie_nor_descriptor(start: Start) -> None:
    # The first one may open descriptors that the event loop keeps.
    await start("").kill()
    descriptors, children = open_descriptors(), children_of_ours()
    for code in ("", "time.sleep(60)", "sys.exit(3)", "os.close(2)"):
        child = start(code)
        await child.kill()
        assert not psutil.pid_exists(child.pid)
    assert (open_descriptors(), children_of_ours()) == (descriptors, children)


async def test_memory_of_a_process_and_its_children_is_counted(
    start: Start, tmp_path: Path
) -> None:
    size = 100 * 2**20
    child = start(
        "say('before'); sys.stdin.read()\n"
        "if os.fork() == 0:\n"
        f"    data = b'x' * {size}\n"
        "    say('after')\n"
        "time.sleep(60)\n"
    )
    await said(tmp_path / "after")
    resident = await asyncio.to_thread(resident_memory, child.pid)
    exact = await asyncio.to_thread(tree_memory, child.pid)
    assert size < exact < resident < 2 * size


async def test_shared_memory_is_counted_once(start: Start, tmp_path: Path) -> None:
    size = 100 * 2**20
    child = start(
        f"data = b'x' * {size}\n"
        "for n in range(3):\n"
        "    if os.fork() == 0:\n"
        "        say(f'ready{n}'); time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    for number in range(3):
        await said(tmp_path / f"ready{number}")
    assert size < await asyncio.to_thread(tree_memory, child.pid) < 1.5 * size
    assert await asyncio.to_thread(resident_memory, child.pid) > 4 * size


async def test_a_process_that_has_gone_uses_no_memory(start: Start) -> None:
    child = start("")
    await child.exited
    assert tree_memory(child.pid) == 0
    assert resident_memory(child.pid) == 0


def test_the_descriptor_limit_is_raised_as_far_as_allowed() -> None:
    code = (
        "import resource\n"
        "from kernelagent.processes.process import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))\n"
        "print(raise_descriptor_limit(600), raise_descriptor_limit(5000),"
        " raise_descriptor_limit(10), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed == "600 1000 1000 (1000, 1000)\n"


async def test_a_terminal_of_its_own(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        code = "say('tty', os.ttyname(os.open('/dev/tty', os.O_RDWR))); say('out', os.isatty(1))"
        code = SAY + code + "\nprint(os.tcgetpgrp(0) == os.getpid())"
        argv = [sys.executable, "-S", "-c", code]
        program = Program(argv, dict(os.environ), tmp_path, uuid.uuid4().hex)
        child = ChildProcess.start(program.on_terminal(theirs))
        try:
            assert (await child.exited).code == 0
            assert os.read(ours, 100) == b"True\r\n"
            assert (tmp_path / "tty").read_text() == "/dev/tty"
            assert (tmp_path / "out").read_text() == "True"
            # What was ours stays so.
            assert os.isatty(theirs)
        finally:
            await child.kill()
    finally:
        os.close(ours)
        os.close(theirs)
