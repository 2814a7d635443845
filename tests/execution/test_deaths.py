"""Kernels that end in the middle of a run: the cause is told, the next run works."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.runs import all_messages, messages, run, session, session_facts, streamed, types
from tests.servers import Server, Service, serving_in_process

LIMIT = 300 * 2**20


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server whose kernels may use 300 MiB."""
    root = tmp_path_factory.mktemp("small")
    with serving_in_process(root, kernel_memory=LIMIT, preload=()) as running:
        yield running


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# How soon is what these two are about.
@pytest.mark.alone
@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [
        ("os._exit(3)", 3, "exit code 3"),
        ("os._exit(0)", 1, "exit code 0"),
        ("os.kill(os.getpid(), 9)", 137, "SIGKILL"),
        ("import time; time.sleep(0.1); os.system(f'kill -9 {os.getpid()}')", 137, "SIGKILL"),
        ("os.abort()", 134, "SIGABRT"),
        ("import ctypes, time; time.sleep(0.1); ctypes.string_at(0)", 139, "SIGSEGV"),
    ],
)
async def test_end_of_the_process_is_told_within_a_second(
    server: Server, code: str, exit_code: int, cause: str
) -> None:
    async with session(server) as session_id:
        await run(server, "import os; before = 1", session_id=session_id)

        answer = await run(server, f"print('partial')\n{code}", session_id=session_id)
        after = await run(server, "'before' in dir()", session_id=session_id)

    assert answer["success"] is False
    assert answer["outcome"] == "kernel_died"
    assert answer["exit_code"] == exit_code
    assert answer["stdout"] == "partial\n"
    assert cause in answer["stderr"]
    assert "state is lost" in answer["stderr"]
    assert answer["state_lost"] is True
    assert answer["execution_time"] < 1
    assert after["result"] == "False"
    assert after["execution_count"] == 1
    assert after["notes"] == []


async def test_crash_report_of_the_interpreter_is_part_of_the_answer(server: Server) -> None:
    async with session(server) as session_id:
        code = "import ctypes; ctypes.string_at(0)"
        answer = await run(server, code, session_id=session_id)

    assert "Segmentation fault" in answer["stderr"]


@pytest.mark.alone
async def test_kill_from_outside_is_told_within_a_second(server: Server) -> None:
    async with session(server) as session_id:
        pid = (await session_facts(server, session_id))["pid"]
        async with streamed(
            server, "print('partial')\nimport time; time.sleep(60)", session_id=session_id
        ) as response:
            stream = messages(response)
            async for message in stream:
                if message["type"] == "stdout":
                    break
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            rest = [item async for item in stream if item["type"] != "keepalive"]
            seconds = time.monotonic() - killed
        after = await run(server, "1 + 1", session_id=session_id)
        facts = await session_facts(server, session_id)

    assert seconds < 1
    assert types(rest)[-2:] == ["result", "complete"]
    assert rest[-2]["outcome"] == "kernel_died"
    assert rest[-2]["state_lost"] is True
    assert rest[-1]["success"] is False
    assert after["result"] == "2"
    assert facts["pid"] != pid
    assert facts["generation"] == 2


async def test_figures_shown_before_the_end_are_kept(server: Server) -> None:
    code = "import matplotlib.pyplot as plt, os\nplt.plot([1]); plt.show()\nos._exit(3)"
    async with session(server) as session_id:
        answer = await run(server, code, session_id=session_id)

    assert answer["outcome"] == "kernel_died"
    assert len(answer["rich_outputs"]) == 1


async def test_runs_that_wait_go_on_with_the_fresh_kernel(server: Server) -> None:
    async with session(server) as session_id:
        doomed, *queued = await asyncio.gather(
            run(server, "import os, time; time.sleep(0.3); os._exit(3)", session_id=session_id),
            *(run(server, str(number), session_id=session_id) for number in range(5)),
        )

    outcomes = sorted([doomed["outcome"], *(answer["outcome"] for answer in queued)])
    assert outcomes == ["kernel_died", *["ok"] * 5]


async def test_child_processes_of_a_lost_kernel_are_ended(server: Server) -> None:
    code = "import os, subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)\nos._exit(3)"
    async with session(server) as session_id:
        answer = await run(server, code, session_id=session_id)
        await run(server, "1", session_id=session_id)

    assert has_ended(int(answer["stdout"]))


@pytest.mark.alone
async def test_memory_bomb_is_told_with_numbers(small_server: Service) -> None:
    code = """
print('partial')
hoard = []
while True:
    hoard.append(bytearray(b'x') * (10 * 2**20))
"""
    async with session(small_server) as session_id:
        answer = await run(small_server, code, session_id=session_id)
        after = await run(small_server, "'hoard' in dir()", session_id=session_id)

    assert answer["outcome"] == "out_of_memory"
    assert answer["success"] is False
    assert answer["exit_code"] == 137
    assert answer["stdout"] == "partial\n"
    assert "300 MiB are allowed" in answer["stderr"]
    assert "MiB of memory" in answer["message"]
    assert answer["state_lost"] is True
    assert answer["execution_time"] < 2
    assert after["result"] == "False"


async def test_memory_of_child_processes_counts_too(small_server: Service) -> None:
    child = "hoard = []\nwhile True: hoard.append(bytearray(b'x') * (10 * 2**20))"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    async with session(small_server) as session_id:
        answer = await run(small_server, code, session_id=session_id)

    assert answer["outcome"] == "out_of_memory"


async def test_stream_tells_of_memory_too(small_server: Service) -> None:
    code = "hoard = []\nwhile True: hoard.append(bytearray(b'x') * (10 * 2**20))"

    async with session(small_server) as session_id:
        items = await all_messages(small_server, code, session_id=session_id)

    assert types(items)[-2:] == ["result", "complete"]
    assert items[-2]["outcome"] == "out_of_memory"


async def test_run_within_the_limit_is_left_alone(small_server: Service) -> None:
    async with session(small_server) as session_id:
        answer = await run(
            small_server,
            "import time; kept = bytearray(50 * 2**20); time.sleep(0.5)",
            session_id=session_id,
        )

    assert answer["outcome"] == "ok"
