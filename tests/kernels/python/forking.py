"""Engines whose Python kernels are forked, and what is seen of their processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil

from kernelagent.jupyter.kernel import Kernel
from kernelagent.outcome import Outcome
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.sessions.session import Session
from kernelagent.settings import Settings
from tests.engines import run, text_of
from tests.waiting import until

CORES = len(os.sched_getaffinity(0))
# How each kind of kernel comes to be.
KINDS: dict[str, dict[str, Any]] = {
    "lean": {},
    "stock": {"lean_kernel": False},
    "plain": {"fork_server": False},
    "plain stock": {"fork_server": False, "lean_kernel": False},
}
FORKED = ("lean", "stock")

# What numpy makes of the cores: threads that come with its first product, and settings.
COUNT_THREADS = """
import json, os
import numpy
def count():
    return len(os.listdir("/proc/self/task"))
before = count()
matrix = numpy.ones((1200, 1200))
product = matrix @ matrix
limits = [name for name in os.environ if name.endswith("_NUM_THREADS")]
print(json.dumps({"before": before, "more": count() - before, "limits": limits}))
"""


@contextlib.asynccontextmanager
async def engine_of(
    settings: Settings, kind: str = "lean", **changes: Any
) -> AsyncIterator[Engine]:
    """An engine for kernels of one kind, whose fork server imports nothing ahead if not told."""
    changes = {"pool_idle": 0, "preload": (), **KINDS[kind], **changes}
    async with open_engine(settings.model_copy(update=changes)) as engine:
        yield engine


@contextlib.asynccontextmanager
async def session_of(engine: Engine) -> AsyncIterator[Session]:
    """A session with a kernel of its own."""
    session = await engine.create_session()
    try:
        yield session
    finally:
        await engine.close_session(session.id)


def kernel_of(session: Session) -> Kernel:
    assert session.kernel is not None
    return session.kernel


def facts_of(engine: Engine) -> dict[str, Any]:
    """What is told of the fork server for Python."""
    return engine.fork_server_facts["python"]


def server_of(engine: Engine) -> int:
    """The process id of the fork server, which must be ready."""
    pid = facts_of(engine)["pid"]
    assert isinstance(pid, int)
    return pid


async def until_ready(engine: Engine) -> None:
    await until(lambda: facts_of(engine)["state"] == "ready")


async def values(session: Session, code: str) -> Any:
    """What `code` prints, which is JSON."""
    result = await run(session, code)
    assert result.outcome is Outcome.OK, result
    return json.loads(text_of(result))


def children(pid: int) -> set[int]:
    """All children of a process, zombies too."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may have ended meanwhile.
        with contextlib.suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def is_forked(kernel: Kernel, engine: Engine) -> bool:
    return psutil.Process(kernel.pid).ppid() == server_of(engine)


def is_plain(kernel: Kernel) -> bool:
    return psutil.Process(kernel.pid).ppid() == os.getpid()


def connection_files(settings: Settings) -> int:
    """How many kernels there are or are being started."""
    assert settings.runtime_dir is not None
    return len(list(settings.runtime_dir.glob("ka-*/*.json")))
