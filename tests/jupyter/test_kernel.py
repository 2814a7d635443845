"""Starting and ending kernels, and what a kernel may know of the service."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from kernelagent.errors import KernelStartFailed
from kernelagent.outcome import Outcome
from kernelagent.processes.environment import Environment
from kernelagent.sessions.engine import Engine
from tests.engines import EngineFactory, run, text_of
from tests.jupyter.leaks import runs
from tests.waiting import PATIENCE


@pytest.mark.parametrize(
    ("fault", "said"),
    [("die_at_start", "exit code 7"), ("die_after_bind", "exit code 8")],
)
async def test_a_kernel_that_dies_at_start_says_why(
    faulty_engine: EngineFactory, fault: str, said: str
) -> None:
    engine = await faulty_engine(fault=fault)
    with pytest.raises(KernelStartFailed, match=said):
        await engine.create_session()
    assert list(engine.sessions) == []


async def test_the_last_words_of_a_kernel_that_dies_at_start_are_told(
    faulty_engine: EngineFactory,
) -> None:
    engine = await faulty_engine(fault="die_at_start")
    with pytest.raises(KernelStartFailed) as failed:
        await engine.create_session()
    assert failed.value.details["stderr"]


@pytest.mark.parametrize("fault", ["hang_at_start", "deaf", "bad_signature"])
async def test_a_kernel_that_does_not_answer_is_given_up(
    faulty_engine: EngineFactory, fault: str, runtime_dir: Path
) -> None:
    engine = await faulty_engine(fault=fault, kernel_start_timeout=0.6)
    with pytest.raises(KernelStartFailed, match="did not answer"):
        await engine.create_session()
    assert not list(runtime_dir.glob("ka-*/*"))


async def test_a_slow_start_is_waited_for(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(fault="slow_start 0.5")
    assert text_of(await run(await engine.create_session(), "print x")) == "x\n"


async def test_children_of_a_kernel_end_with_it_in_whichever_session(
    faulty_engine: EngineFactory,
) -> None:
    engine = await faulty_engine()
    session = await engine.create_session()
    result = await run(session, "fork\nsetsid")
    children = [psutil.Process(int(pid)) for pid in text_of(result).split()]
    assert len(children) == 2
    await engine.close_session(session.id)
    for child in children:
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_a_child_with_an_environment_of_its_own_ends_too(engine: Engine) -> None:
    session = await engine.create_session()
    code = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '1000'], env={}, start_new_session=True)\n"
        "print(child.pid)"
    )
    child = psutil.Process(int(text_of(await run(session, code))))
    await engine.close_session(session.id)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_children_of_a_kernel_that_died_end_too(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "setsid\nexit 3")
    child = int(text_of(result))
    assert (await run(session, "print x")).outcome is Outcome.OK
    assert not runs(child)


def test_no_variable_of_the_service_reaches_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    env = Environment(("WANTED", "KERNELAGENT_JWT_SECRET")).of_kernel()
    assert env["WANTED"] == "yes"
    assert env["LC_ALL"] == "C.UTF-8"
    assert "secret" not in env.values()


async def test_a_kernel_sees_neither_our_variables_nor_our_folders(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys\n"
        "print([name for name in os.environ if 'SECRET' in name or name == 'JPY_PARENT_PID'])\n"
        "print([path for path in sys.path if 'kernels' in path])\n"
        "print(sorted(name for name in globals() if 'kernelagent' in name))"
    )
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET", "x" * 40)
    session = await engine.create_session()
    assert text_of(await run(session, code)) == "[]\n[]\n[]\n"


async def test_user_code_can_still_import_the_debugger_that_we_leave_out(engine: Engine) -> None:
    result = await run(engine.session("default"), "import sys; 'debugpy' in sys.modules")
    assert result.outputs[0]["data"]["text/plain"] == "False"


async def test_a_kernel_ends_when_its_server_does(tmp_path: Path, runtime_dir: Path) -> None:
    code = f"""
import asyncio
from kernelagent.sessions.engine import open_engine
from kernelagent.settings import load_settings

async def main():
    settings = load_settings(
        workspace={str(tmp_path)!r}, runtime_dir={str(runtime_dir)!r}, pool_idle=0, preload=()
    )
    async with open_engine(settings) as engine:
        session = await engine.create_session()
        print(session.kernel.pid, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    kernel = psutil.Process(int(await server.stdout.readline()))
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [kernel], PATIENCE)
    assert gone
