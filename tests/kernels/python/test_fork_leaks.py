"""What forked kernels leave: nothing, however their start and their end go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernelagent.jupyter.forking import ChannelLost
from kernelagent.jupyter.languages import Languages
from kernelagent.jupyter.launcher import Launcher
from kernelagent.sandbox import Sandbox
from kernelagent.sessions.engine import Engine
from kernelagent.settings import Settings
from tests.engines import run
from tests.jupyter.leaks import descriptors, family, processes_in, warm_threads
from tests.kernels.python.forking import (
    FORKED,
    KINDS,
    children,
    connection_files,
    engine_of,
    facts_of,
    kernel_of,
    server_of,
    session_of,
)
from tests.waiting import until


def state_of(engine: Engine) -> tuple[int, int, int, int, set[int]]:
    """Descriptors, threads, processes; those of the fork server too."""
    server = server_of(engine)
    return (
        descriptors(),
        threading.active_count(),
        len(family(engine.sandbox.workspace)),
        descriptors(server),
        children(server),
    )


STARTS_CHILD = "import subprocess; child = subprocess.Popen(['sleep', '100'])"


async def test_forty_sessions_leave_nothing(forked: Engine) -> None:
    async with session_of(forked) as session:
        await run(session, "1")
    await warm_threads()
    before = state_of(forked)
    files = connection_files(forked.settings)
    for code in ("1", "print('x' * 100_000)", "1 / 0", "import os; os._exit(1)", STARTS_CHILD):
        sessions = await asyncio.gather(*(forked.create_session() for _ in range(8)))
        await asyncio.gather(*(run(session, code) for session in sessions))
        await asyncio.gather(*(forked.close_session(session.id) for session in sessions))
    assert state_of(forked) == before
    assert connection_files(forked.settings) == files


MOMENTS = {
    "at once": "",
    "when the process is there": "python",
    "in the middle": "numpy",
    "near the end": "matplotlib",
}


@pytest.mark.parametrize("mapped", MOMENTS.values(), ids=MOMENTS)
async def test_an_engine_that_is_closed_while_its_fork_server_starts_leaves_nothing(
    settings: Settings, mapped: str
) -> None:
    def far_enough() -> bool:
        for pid in processes_in(settings.workspace):
            with contextlib.suppress(OSError):
                if mapped in Path(f"/proc/{pid}/maps").read_text():
                    return True
        return not mapped

    assert settings.runtime_dir is not None
    await warm_threads()
    before = (descriptors(), threading.active_count(), family(settings.workspace))
    # A kernel is waited for, too.
    async with engine_of(settings, "lean", pool_idle=1, preload=None) as engine:
        await until(far_enough)
        assert facts_of(engine)["state"] == "starting"
    after = (descriptors(), threading.active_count(), family(settings.workspace))
    assert after == before
    assert processes_in(settings.workspace) == set()
    assert list(settings.runtime_dir.iterdir()) == []


@pytest.fixture(params=FORKED)
async def launcher(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Launcher]:
    """A launcher whose fork server is ready."""
    settings = settings.model_copy(update={**KINDS[request.param], "preload": ()})
    sandbox = Sandbox(settings, Languages.load().needs)
    made = Launcher(sandbox)
    try:
        await sandbox.open()
        await made.open(Languages.load())
        await (await made.start(Languages.load().find("python"))).stop()
        yield made
    finally:
        await made.close()
        await sandbox.close()


def launched(launcher: Launcher, settings: Settings) -> tuple[int, int, int, set[int]]:
    """Descriptors, files and processes."""
    server = launcher.fork_server_facts["python"]["pid"]
    return descriptors(), connection_files(settings), descriptors(server), children(server)


async def test_a_start_that_is_cancelled_half_way_leaves_nothing(
    launcher: Launcher, settings: Settings
) -> None:
    python = Languages.load().find("python")
    await warm_threads()
    before = launched(launcher, settings)
    cancelled = 0
    for step in range(25):
        task = asyncio.create_task(launcher.start(python))
        for _ in range(step):
            await asyncio.sleep(0.001)
        task.cancel()
        try:
            await (await task).stop()
        except asyncio.CancelledError:
            cancelled += 1
    assert cancelled > 5
    await until(lambda: launched(launcher, settings) == before)
    assert launcher.fork_server_facts["python"]["restarts"] == 0


async def test_a_kernel_that_comes_after_its_start_was_cancelled_ends(
    launcher: Launcher, settings: Settings
) -> None:
    python = Languages.load().find("python")
    await warm_threads()
    before = launched(launcher, settings)
    server = launcher.fork_server_facts["python"]["pid"]
    os.kill(server, signal.SIGSTOP)
    task = asyncio.create_task(launcher.start(python))
    await until(lambda: connection_files(settings) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.kill(server, signal.SIGCONT)
    # The next one is right, and so is the order of the answers.
    kernel = await launcher.start(python)
    assert children(server) >= {kernel.pid}
    await kernel.stop()
    await until(lambda: launched(launcher, settings) == before)


async def test_a_copy_that_comes_too_late_ends(lean: Engine) -> None:
    async with session_of(lean) as session:
        kernel = kernel_of(session)
        assert kernel.source is not None
        await run(session, "x = 1")
        await warm_threads()
        before = state_of(lean)
        os.kill(kernel.pid, signal.SIGSTOP)
        content = {"op": "park", "marker": "0" * 16, "force": False}
        with pytest.raises(ChannelLost, match="within"):
            await kernel.source.fork(content, {}, timeout=0.01)
        os.kill(kernel.pid, signal.SIGCONT)
        # It has made the copy by the time it answers this.
        assert (await run(session, "print(x)")).success
        await until(lambda: state_of(lean) == before)
