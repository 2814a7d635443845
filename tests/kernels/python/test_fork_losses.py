"""When the fork server dies, or the service: kernels are replaced, or end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kernelagent.jupyter.forking import ForkChannel
from kernelagent.outcome import Outcome
from kernelagent.sessions.engine import Engine
from kernelagent.settings import Settings
from tests.engines import run, text_of
from tests.jupyter.leaks import processes_in, runs
from tests.kernels.python.forking import (
    FORKED,
    children,
    connection_files,
    engine_of,
    facts_of,
    is_forked,
    is_plain,
    kernel_of,
    server_of,
    session_of,
    until_ready,
)
from tests.waiting import PATIENCE, until

SERVICE = """
import asyncio, os, signal, sys
from pathlib import Path
from kernelagent.processes.cgroup import MemoryGroups
from kernelagent.sessions.engine import open_engine
from kernelagent.settings import load_settings
from tests.engines import run, submit
from tests.waiting import until

# A service that is killed leaves their folder.
MemoryGroups.open = lambda _: "none in this test"

async def main(workspace, runtime_dir, kind, what):
    settings = load_settings(
        workspace=workspace, runtime_dir=runtime_dir, pool_idle=0, preload=(),
        lean_kernel=kind == "lean",
    )
    async with open_engine(settings) as engine:
        await {"work": work, "fork": fork}[what](engine, Path(runtime_dir))

async def work(engine, _):
    one, other = await engine.create_session(), await engine.create_session()
    child = "import subprocess, pathlib; child = subprocess.Popen(['sleep', '100'], env={})"
    await run(one, child)
    submit(other, child + "\\npathlib.Path('holds').touch(); sum(range(10**12))", timeout=1000)
    print(engine.fork_server_facts["python"]["pid"], flush=True)
    await asyncio.sleep(1000)

async def fork(engine, runtime_dir):
    await engine.create_session()
    server = engine.fork_server_facts["python"]["pid"]
    os.kill(server, signal.SIGSTOP)
    task = asyncio.create_task(engine.create_session())
    # Written in the same step in which the process is asked for.
    await until(lambda: len(list(runtime_dir.glob("ka-*/*.json"))) == 2)
    print(server, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def service(settings: Settings, *arguments: str) -> AsyncIterator[tuple[int, int]]:
    """The ids of a service in a process of its own, and of its fork server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVICE,
        str(settings.workspace),
        str(settings.runtime_dir),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert process.stdout is not None
        yield process.pid, int(await process.stdout.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        for pid in processes_in(settings.workspace):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("first", ["service", "fork server"])
@pytest.mark.parametrize("kind", FORKED)
async def test_everything_ends_when_the_service_is_killed(
    settings: Settings, kind: str, first: str
) -> None:
    async with service(settings, kind, "work") as (pid, server):
        # One kernel is idle, the other one holds the interpreter's lock in C for ever.
        await until((settings.workspace / "holds").exists)
        kernels = children(server)
        running = {pid for pid in processes_in(settings.workspace) if runs(pid)}
        assert running == {server, *kernels, *(child for one in kernels for child in children(one))}
        assert len(running) == 5
        if first == "fork server":
            os.kill(server, signal.SIGKILL)
            await until(lambda: not runs(server))
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            await until(lambda: not any(map(runs, running)))


@pytest.mark.parametrize("kind", FORKED)
async def test_a_kernel_that_is_made_after_the_service_was_killed_ends(
    settings: Settings, kind: str
) -> None:
    async with service(settings, kind, "fork") as (pid, server):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not runs(pid))
        os.kill(server, signal.SIGCONT)
        # It forks what it was asked for, and only then learns that the service has gone.
        await until(lambda: not runs(server))
        async with asyncio.timeout(PATIENCE):
            await until(lambda: processes_in(settings.workspace) == set())


@pytest.fixture(autouse=True)
def _none_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a fork server may live long before it is killed."""
    monkeypatch.setattr("kernelagent.jupyter.forkserver._SETTLED", 3600.0)


async def until_lost(engine: Engine, server: int) -> None:
    await until(lambda: facts_of(engine)["pid"] != server)


async def test_a_lost_fork_server_is_replaced_and_sessions_keep_their_state(
    settings: Settings,
) -> None:
    async with engine_of(settings) as engine:
        async with session_of(engine) as session:
            await run(session, "x = 41")
            server = server_of(engine)
            os.kill(server, signal.SIGKILL)
            await until_lost(engine, server)
            assert text_of(await run(session, "print(x + 1)")) == "42\n"
            # At once and plainly, until there is another one.
            async with session_of(engine) as meanwhile:
                assert is_plain(kernel_of(meanwhile))
                assert (await run(meanwhile, "1")).success
            assert "signal 9 (SIGKILL)" in facts_of(engine)["reason"] or facts_of(engine)["pid"]
            await until_ready(engine)
            facts = facts_of(engine)
            assert (facts["restarts"], facts["reason"], facts["kernel"]) == (1, "", "lean")
            async with session_of(engine) as afterwards:
                assert is_forked(kernel_of(afterwards), engine)
                assert text_of(await run(session, "print(x + 1)")) == "42\n"
            branch = await engine.branch_session(session, wait=PATIENCE)
            assert text_of(await run(branch, "print(x + 1)")) == "42\n"
        await engine.close_session(branch.id)
        assert processes_in(settings.workspace) == {server_of(engine)}


async def test_one_that_lived_long_is_replaced_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelagent.jupyter.forkserver._SETTLED", 0.0)
    async with engine_of(settings) as engine, session_of(engine):
        server = server_of(engine)
        os.kill(server, signal.SIGKILL)
        await until_lost(engine, server)
        assert facts_of(engine)["state"] == "starting"
        await until(lambda: facts_of(engine)["restarts"] == 1)
        # This one waits for it.
        async with session_of(engine) as session:
            assert is_forked(kernel_of(session), engine)


async def test_kernels_without_their_fork_server_are_watched_and_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody waits for a status that nobody can tell.
    monkeypatch.setattr("kernelagent.jupyter.forking._STATUS_GRACE", 3600.0)
    async with engine_of(settings) as engine:
        sessions = [await engine.create_session() for _ in range(5)]
        kernels = [kernel_of(session) for session in sessions]
        code = "import subprocess; print(subprocess.Popen(['sleep', '100'], env={}).pid)"
        pids = [int(text_of(await run(session, code))) for session in sessions]
        server = server_of(engine)
        os.kill(server, signal.SIGKILL)
        await until_lost(engine, server)

        for kernel in kernels[:3]:
            os.kill(kernel.pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(kernel.exited)
        result = await run(sessions[3], "import os; os._exit(7)")
        assert result.outcome is Outcome.KERNEL_DIED
        assert "an unknown status" in result.message or "exit code 7" in result.message
        again = await run(sessions[0], "1")
        assert again.success
        assert "the kernel died with an unknown status since the last run" in again.notes[0]
        for session in sessions:
            await engine.close_session(session.id)
        assert not any(map(runs, [*pids, *(kernel.pid for kernel in kernels)]))


async def test_a_fork_server_that_hangs_is_not_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ForkChannel.fork

    async def impatient(
        channel: ForkChannel, content: Any, descriptors: Any, *, timeout: float
    ) -> tuple[int, int]:
        # Only this is cut short: a plain kernel needs its time on a busy machine.
        assert timeout == settings.kernel_start_timeout
        return await real(channel, content, descriptors, timeout=0.5)

    async with engine_of(settings) as engine:
        async with session_of(engine) as session:
            await run(session, "x = 41")
            server = server_of(engine)
            os.kill(server, signal.SIGSTOP)
            monkeypatch.setattr(ForkChannel, "fork", impatient)
            async with session_of(engine) as other:
                assert is_plain(kernel_of(other))
                assert (await run(other, "1")).success
            assert not runs(server)
            monkeypatch.undo()
            assert text_of(await run(session, "print(x + 1)")) == "42\n"
            await until(lambda: facts_of(engine)["restarts"] == 1)
            await until_ready(engine)
            async with session_of(engine) as afterwards:
                assert is_forked(kernel_of(afterwards), engine)
        assert processes_in(settings.workspace) == {server_of(engine)}


async def test_a_fork_server_that_dies_while_it_is_asked_is_not_waited_for(
    settings: Settings,
) -> None:
    async with engine_of(settings) as engine, session_of(engine):
        server = server_of(engine)
        os.kill(server, signal.SIGSTOP)
        task = asyncio.create_task(engine.create_session())
        await until(lambda: connection_files(settings) == 2)
        os.kill(server, signal.SIGKILL)
        session = await task
        assert is_plain(kernel_of(session))
        assert (await run(session, "1")).success
        await engine.close_session(session.id)
