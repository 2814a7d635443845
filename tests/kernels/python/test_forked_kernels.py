"""Forked kernels: what marks them, which are forked, and interrupts while they start."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from kernelagent.sessions.engine import Engine
from tests.engines import run, text_of
from tests.kernels.python.forking import (
    children,
    facts_of,
    is_forked,
    is_plain,
    kernel_of,
    server_of,
    session_of,
    values,
)
from tests.waiting import PATIENCE


async def test_classes_of_a_cell_can_be_pickled(forked: Engine) -> None:
    code = """
import json, pickle
class Thing:
    pass
print(json.dumps([Thing.__module__, type(pickle.loads(pickle.dumps(Thing()))) is Thing]))
"""
    async with session_of(forked) as session:
        assert await values(session, code) == ["__main__", True]


async def test_a_kernel_carries_its_own_mark_for_everybody_to_see(any_engine: Engine) -> None:
    def marks(pid: int) -> list[str]:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return [entry for entry in entries if entry.startswith("KERNELAGENT_PROCESS")]

    code = "import subprocess; child = subprocess.Popen(['sleep', '100']); print(child.pid)"
    async with session_of(any_engine) as session, session_of(any_engine) as other:
        child = int(text_of(await run(session, code)))
        for one in (session, other):
            assert marks(kernel_of(one).pid) == [f"KERNELAGENT_PROCESS={kernel_of(one).id}"]
        assert marks(child) == [f"KERNELAGENT_PROCESS={kernel_of(session).id}"]
        await run(session, "child.kill(); child.wait()")


async def test_a_branch_carries_its_own_mark(lean: Engine) -> None:
    async with session_of(lean) as session:
        branch = await lean.branch_session(session, wait=PATIENCE)
        kernel = kernel_of(branch)
        environ = Path(f"/proc/{kernel.pid}/environ").read_bytes().split(b"\0")
        assert f"KERNELAGENT_PROCESS={kernel.id}".encode() in environ
        await lean.close_session(branch.id)


async def test_exit_functions_run_when_a_session_is_closed(
    any_engine: Engine, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    code = f"import atexit, pathlib; atexit.register(pathlib.Path({str(left)!r}).touch)"
    async with session_of(any_engine) as session:
        await run(session, code)
        kernel = kernel_of(session)
    assert left.exists()
    # It has left by itself, and was not killed for want of patience.
    assert kernel.exited.result().code == 0


async def test_without_a_fork_server_kernels_are_started_by_themselves(plain: Engine) -> None:
    async with session_of(plain) as session:
        assert is_plain(kernel_of(session))
        assert kernel_of(session).source is None
        assert (await run(session, "1")).success
    assert plain.fork_server_facts == {}


async def test_stock_kernels_are_forked_but_cannot_be_branched(stock: Engine) -> None:
    async with session_of(stock) as session:
        assert is_forked(kernel_of(session), stock)
        assert kernel_of(session).source is None
        facts = facts_of(stock)
    assert (facts["state"], facts["kernel"], facts["reason"]) == ("ready", "stock", "")


async def test_forks_are_counted(lean: Engine) -> None:
    async with session_of(lean) as session:
        before = facts_of(lean)
        assert (before["state"], before["kernel"], before["restarts"]) == ("ready", "lean", 0)
        async with session_of(lean) as other:
            assert is_forked(kernel_of(session), lean)
            assert is_forked(kernel_of(other), lean)
            assert facts_of(lean) == {**before, "forks": before["forks"] + 1}


@contextlib.contextmanager
def bombarded(parent: int) -> Iterator[dict[int, int]]:
    """Interrupt every child that `parent` gets, on and on; how often each of them."""
    hits: dict[int, int] = {}
    spared = children(parent)
    over = threading.Event()

    def bombard() -> None:
        while not over.is_set():
            for pid in children(parent) - spared:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                    hits[pid] = hits.get(pid, 0) + 1

    thread = threading.Thread(target=bombard)
    thread.start()
    try:
        yield hits
    finally:
        over.set()
        thread.join()


async def test_interrupts_during_its_start_do_not_kill_a_kernel(forked: Engine) -> None:
    async with session_of(forked) as first:
        assert is_forked(kernel_of(first), forked)
        before = facts_of(forked)
        with bombarded(server_of(forked)) as hits:
            sessions = [await forked.create_session() for _ in range(5)]
        assert facts_of(forked) == {**before, "forks": before["forks"] + 5}
        for session in sessions:
            assert hits[kernel_of(session).pid] > 0
            assert text_of(await run(session, "print(1)")) == "1\n"
            await forked.close_session(session.id)
