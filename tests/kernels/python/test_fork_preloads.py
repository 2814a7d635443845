"""What the fork server imports ahead: found by kernels, or refused for a reason."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from kernelagent.app import create_app
from kernelagent.jupyter.forkserver import ForkServer, ForkServerSpec
from kernelagent.jupyter.languages import Languages
from kernelagent.processes.process import ChildProcess
from kernelagent.sessions.engine import Engine
from kernelagent.settings import Settings
from tests.engines import run, text_of
from tests.jupyter.leaks import processes_in
from tests.kernels.python.forking import (
    CORES,
    COUNT_THREADS,
    FORKED,
    engine_of,
    facts_of,
    is_forked,
    is_plain,
    kernel_of,
    server_of,
    session_of,
    values,
)
from tests.waiting import PATIENCE


@pytest.mark.parametrize("kind", FORKED)
async def test_a_plot_is_an_image_where_nothing_was_preloaded(
    settings: Settings, kind: str
) -> None:
    async with engine_of(settings, kind, preload=()) as engine, session_of(engine) as session:
        assert is_forked(kernel_of(session), engine)
        result = await run(
            session,
            "import sys\nassert 'matplotlib' not in sys.modules\n"
            "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        )
    assert ["image/png" in output["data"] for output in result.outputs] == [True]


@pytest.mark.parametrize("kind", FORKED)
async def test_a_plot_is_an_image_though_the_backend_was_there_before_the_shell(
    settings: Settings, kind: str, preloads: Callable[[str], str]
) -> None:
    name = preloads("import matplotlib.pyplot as plt\nplt.figure()\nplt.close()")
    changes = {"preload": (name,), "kernel_env": ("PYTHONPATH",)}
    async with engine_of(settings, kind, **changes) as engine, session_of(engine) as session:
        assert is_forked(kernel_of(session), engine)
        result = await run(
            session,
            "import sys\nassert 'matplotlib_inline.backend_inline' in sys.modules\n"
            "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        )
    assert ["image/png" in output["data"] for output in result.outputs] == [True]


async def test_a_preloaded_module_is_there(
    settings: Settings, preloads: Callable[[str], str]
) -> None:
    name = preloads("import os\nMADE_BY = os.getpid()")
    changes = {"preload": (name,), "kernel_env": ("PYTHONPATH",)}
    async with engine_of(settings, "lean", **changes) as engine, session_of(engine) as session:
        result = await run(session, f"import {name}\nprint({name}.MADE_BY)")
        assert int(text_of(result)) == server_of(engine)


@pytest.mark.parametrize("kind", FORKED)
async def test_numerical_libraries_use_as_many_threads_as_the_service_says(
    settings: Settings, kind: str, monkeypatch: pytest.MonkeyPatch, preloads: Callable[[str], str]
) -> None:
    name = preloads(OPENMP)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes = {"preload": ("numpy", name), "kernel_env": ("PYTHONPATH",)}
    async with engine_of(settings, kind, **changes) as engine, session_of(engine) as session:
        assert is_forked(kernel_of(session), engine)
        found = await values(session, COUNT_THREADS)
        assert found["more"] == 0
        assert found["limits"] == ["OMP_NUM_THREADS"]
        assert await values(session, f"import {name}; print({name}.threads())") in (1, None)


OPENMP = """
import ctypes
try:
    library = ctypes.CDLL("libgomp.so.1")
except OSError:
    library = None
def threads():
    return "null" if library is None else library.omp_get_max_threads()
"""


@pytest.mark.parametrize("kind", FORKED)
async def test_libraries_with_openmp_use_all_cores(
    settings: Settings, kind: str, preloads: Callable[[str], str]
) -> None:
    name = preloads(OPENMP)
    changes = {"preload": (name,), "kernel_env": ("PYTHONPATH",)}
    async with engine_of(settings, kind, **changes) as engine, session_of(engine) as session:
        assert is_forked(kernel_of(session), engine)
        threads = await values(session, f"import {name}; print({name}.threads())")
    if threads is None:
        pytest.skip("there is no OpenMP library here")
    assert threads == CORES


def engine_in(app: FastAPI) -> Engine:
    """The engine of an application that is open."""
    engine: Engine = app.state.agent.engine
    return engine


BAD_PRELOADS = {
    "thread": (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,), name='poller').start()",
        r"the preload of {name} has started 1 thread \(poller\)",
    ),
    "two native threads": (
        "import zmq\nsocket = zmq.Context().socket(zmq.PUB)",
        r"the preload of {name} has started 2 threads \(ZMQbg",
    ),
    "event loop": (
        "import asyncio\nloop = asyncio.new_event_loop()",
        "the preload of {name} has made an event loop",
    ),
    "raises": ("raise RuntimeError('not today')", "the preload of {name} failed: .*not today"),
    "exits": ("raise SystemExit('enough')", "ended with exit code 1 while it started: enough"),
    "dies": ("import os\nos._exit(3)", "ended with exit code 3 while it started"),
    "does not exist": (None, "the preload of no_such_module failed: .*No module named"),
}


@pytest.mark.parametrize(("code", "reason"), BAD_PRELOADS.values(), ids=BAD_PRELOADS)
async def test_a_bad_preload_is_told_and_plain_kernels_serve(
    settings: Settings, preloads: Callable[[str], str], code: str | None, reason: str
) -> None:
    name = "no_such_module" if code is None else preloads(code)
    changes = {"preload": ("json", name), "kernel_env": ("PYTHONPATH",), "pool_idle": 0}
    app = create_app(settings.model_copy(update=changes))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent")
    async with app.router.lifespan_context(app), client, session_of(engine_in(app)) as session:
        engine = engine_in(app)
        assert is_plain(kernel_of(session))
        assert text_of(await run(session, "print(6 * 7)")) == "42\n"
        facts = facts_of(engine)
        health = (await client.get("/health")).json()
    assert facts["state"] == "failed"
    assert re.search(reason.format(name=name), facts["reason"]), facts["reason"]
    assert (facts["kernel"], facts["pid"], facts["forks"]) == ("", None, 0)
    assert health["fork_servers"]["python"] == facts
    assert health["features"]["branches"] is False
    assert health["status"] == "healthy"
    assert processes_in(settings.workspace) == set()


def preloading(name: str, folder: Path, timeout: float) -> ForkServer:
    """A fork server in `folder` that imports one module ahead."""
    env = {"PYTHONPATH": os.environ["PYTHONPATH"], "PATH": os.environ["PATH"]}
    python = Languages.load().find("python")
    return ForkServer(ForkServerSpec(python, env, folder, [name], stock=False, timeout=timeout))


async def test_a_preload_that_does_not_end_is_given_up(
    tmp_path: Path, preloads: Callable[[str], str]
) -> None:
    server = preloading(preloads("import time\ntime.sleep(1000)"), tmp_path, 0.5)
    server.open()
    assert await server.generation() is None
    assert (server.state, server.reason) == ("failed", "it was not ready within 0.5 s")
    await server.close()
    assert processes_in(tmp_path) == set()


async def test_one_that_is_closed_while_a_process_is_ended_waits_for_that(
    tmp_path: Path, preloads: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = ChildProcess.kill
    asked, go = asyncio.Event(), asyncio.Event()

    async def kill_later(process: ChildProcess) -> None:
        asked.set()
        await go.wait()
        await kill(process)

    monkeypatch.setattr(ChildProcess, "kill", kill_later)
    server = preloading(preloads("raise RuntimeError"), tmp_path, PATIENCE)
    server.open()
    await asked.wait()
    closing = asyncio.create_task(server.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    assert processes_in(tmp_path) == set()


async def test_a_thread_that_has_ended_is_no_obstacle(
    settings: Settings, preloads: Callable[[str], str]
) -> None:
    name = preloads(
        "import threading\nthread = threading.Thread(target=print)\nthread.start(); thread.join()"
    )
    changes = {"preload": (name,), "kernel_env": ("PYTHONPATH",)}
    async with engine_of(settings, "lean", **changes) as engine, session_of(engine) as session:
        assert is_forked(kernel_of(session), engine)
