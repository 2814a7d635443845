"""How Python kernels end: the status is told, and what they have started ends too."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile

import pytest

from kernelagent.outcome import Outcome
from kernelagent.sessions.engine import Engine
from tests.engines import run, submit, text_of
from tests.jupyter.leaks import runs
from tests.kernels.python.forking import kernel_of, session_of
from tests.waiting import PATIENCE, until


@pytest.mark.parametrize(
    ("code", "said", "exit_code"),
    [
        ("import os; os._exit(7)", "exit code 7", 7),
        ("import ctypes; ctypes.string_at(0)", "signal 11 (SIGSEGV)", 139),
        ("import os; os.abort()", "signal 6 (SIGABRT)", 134),
    ],
)
async def test_the_status_of_a_kernel_is_told(
    any_engine: Engine, code: str, said: str, exit_code: int
) -> None:
    async with session_of(any_engine) as session:
        result = await run(session, code)
    assert (result.outcome, result.exit_code) == (Outcome.KERNEL_DIED, exit_code)
    assert result.message.startswith(f"the kernel died with {said}; the session's state is lost")
    assert ("Fatal Python error" in result.message) == (exit_code > 128)
    cell = f'File "{tempfile.gettempdir()}/ipykernel_'
    assert (cell in result.message) == (exit_code > 128)


async def test_a_kernel_that_is_killed_from_outside_is_told(any_engine: Engine) -> None:
    async with session_of(any_engine) as session:
        execution = submit(session, "print('x')\nwhile True: pass")
        await until(lambda: execution.begun is not None)
        os.kill(kernel_of(session).pid, signal.SIGKILL)
        result = await execution.finished
    assert result.exit_code == 137
    assert "signal 9 (SIGKILL)" in result.message


async def test_the_status_of_a_branch_is_told_and_its_group_ended(lean: Engine) -> None:
    async with session_of(lean) as session:
        branch = await lean.branch_session(session, wait=PATIENCE)
        code = "import subprocess; print(subprocess.Popen(['sleep', '100'], env={}).pid)"
        child = int(text_of(await run(branch, code)))
        result = await run(branch, "import os; os._exit(7)")
        assert result.message.startswith("the kernel died with exit code 7;")
        await until(lambda: not runs(child))
        await lean.close_session(branch.id)


FREE = {
    "a session of its own": """
import subprocess
print(subprocess.Popen(["sleep", "100"], env={}, start_new_session=True).pid)
""",
    "a daemon": """
import os, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writer, str(os.getpid()).encode())
        time.sleep(1000)
    os._exit(0)
print(os.read(reader, 99).decode())
""",
    "a daemon without an environment": """
import subprocess
print(subprocess.run(
    ["/bin/sh", "-c", "setsid sleep 100 >&- 2>&- & echo $!"],
    env={}, capture_output=True, text=True).stdout)
""",
}
NOT_FOUND = pytest.mark.xfail(reason="it is in no group, no tree and without a mark")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=name, marks=NOT_FOUND if "without" in name else ())
        for name, code in FREE.items()
    ],
)
async def test_what_has_set_itself_free_ends_with_its_kernel(any_engine: Engine, code: str) -> None:
    async with session_of(any_engine) as session:
        child = int(text_of(await run(session, code)))
        await until(lambda: runs(child) and os.getsid(child) != kernel_of(session).pid)
    try:
        assert not runs(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


async def test_what_a_dying_kernel_has_started_ends_too(any_engine: Engine) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '100'], env={}).pid)"
    async with session_of(any_engine) as session:
        child = int(text_of(await run(session, code)))
        await run(session, "import os; os._exit(1)")
        await until(lambda: not runs(child))


@pytest.mark.parametrize("end", ["os._exit(7)", "os.abort()", "os.kill(os.getpid(), 9)"])
async def test_what_a_kernel_has_printed_before_it_ends_itself_is_told(
    any_engine: Engine, end: str
) -> None:
    async with session_of(any_engine) as session:
        result = await run(session, f"import os\nfor n in range(1000): print(n)\n{end}")
    assert text_of(result).splitlines() == [str(n) for n in range(1000)]
