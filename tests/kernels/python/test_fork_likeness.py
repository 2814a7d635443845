"""A forked kernel is as good as one that was started by itself, and shares no secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernelagent.sessions.engine import Engine
from kernelagent.settings import Settings
from tests.engines import run, text_of
from tests.kernels.python.forking import (
    CORES,
    COUNT_THREADS,
    FORKED,
    KINDS,
    engine_of,
    is_forked,
    kernel_of,
    server_of,
    session_of,
    values,
)


@pytest.fixture(scope="module")
def preload() -> tuple[str, ...] | None:
    """As it is used."""
    return None


async def test_siblings_share_no_random_numbers(forked: Engine) -> None:
    code = """
import json, os, random, secrets, tempfile, uuid
import numpy
print(json.dumps({
    "numpy": numpy.random.random(),
    "numpy state": numpy.random.RandomState().random(),
    "numpy generator": numpy.random.default_rng().random(),
    "random": random.random(),
    "random object": random.Random().random(),
    "uuid1": str(uuid.uuid1()),
    "uuid4": str(uuid.uuid4()),
    "secrets": secrets.token_hex(),
    "urandom": os.urandom(8).hex(),
    "tempfile": next(tempfile._get_candidate_names()),
}))
"""
    async with session_of(forked) as one, session_of(forked) as other:
        assert is_forked(kernel_of(one), forked)
        ours, theirs = await values(one, code), await values(other, code)
    assert [name for name in ours if ours[name] == theirs[name]] == []


@pytest.mark.parametrize("plot", ["plt.plot([1, 2, 3])", "plt.plot([1, 2, 3]); plt.show()"])
async def test_the_first_plot_is_an_image(forked: Engine, plot: str) -> None:
    async with session_of(forked) as session:
        result = await run(session, f"import matplotlib.pyplot as plt\n{plot};")
    assert result.execution_count == 1
    images = [output["data"] for output in result.outputs if "data" in output]
    assert [set(data) >= {"image/png", "text/plain"} for data in images] == [True]


async def test_the_first_table_is_html(forked: Engine) -> None:
    async with session_of(forked) as session:
        result = await run(session, "import pandas\npandas.DataFrame({'a': [1, 2]})")
    assert result.execution_count == 1
    assert "<table" in result.outputs[0]["data"]["text/html"]


async def test_usual_cells_import_nothing_after_the_fork(lean: Engine) -> None:
    cells = [
        "import sys; before = set(sys.modules)",
        "import numpy, pandas, matplotlib.pyplot as plt",
        "plt.plot([1, 2], label='a'); plt.legend();",
        "pandas.DataFrame({'a': [1.5, None]})",
        "numpy.random.random(3) @ numpy.ones(3)",
        "print('x'); 1 / 0",
    ]
    async with session_of(lean) as session:
        for cell in cells:
            await run(session, cell)
        result = await run(session, "print(sorted(set(sys.modules) - before))")
    assert text_of(result) == "[]\n"


SNAPSHOT = """
_theirs = set(globals())
import asyncio as _asyncio, gc as _gc, json as _json, locale as _locale, logging as _logging
import os as _os, re as _re, resource as _resource, signal as _signal, subprocess as _subprocess
import sys as _sys, threading as _threading
from ipykernel.connect import get_connection_file as _get_connection_file

def _links():
    found = {}
    for name in _os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = _os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass
    return found

def _wakeup():
    descriptor = _signal.set_wakeup_fd(-1)
    if descriptor != -1:
        _signal.set_wakeup_fd(descriptor)
    return descriptor

def _name(handler):
    return getattr(handler, "__qualname__", str(handler))

_main = _sys.modules["__main__"]
_history = get_ipython().history_manager
print(_json.dumps({
    "environment": dict(_os.environ),
    "argv": _sys.argv,
    "connection file": _get_connection_file(),
    "path": _sys.path,
    "directory": _os.getcwd(),
    "directory history": [str(path) for path in _dh],
    "names": sorted(_theirs),
    "input": In[:-1],
    "output": [Out, str(_), str(__), _i, _ii],
    "history": [_history.enabled, _history.session_number],
    "last error": [name for name in dir(_sys) if name.startswith("last_")],
    "main": {name: repr(value) for name, value in vars(_main).items() if name.startswith("__")},
    "is main": vars(_main) is globals(),
    "collector": [_gc.isenabled(), list(_gc.get_threshold())],
    "frozen": _gc.get_freeze_count(),
    "ids": [_os.getpid(), _os.getpgrp(), _os.getsid(0), _threading.get_native_id()],
    "threads": [thread.name for thread in _threading.enumerate()],
    "kinds of descriptors": sorted(_re.sub(r"\\d+", "", link) for link in _links().values()),
    "stdin": [_links()[0], _sys.stdin.read()],
    "given to children": _subprocess.run(
        ["ls", "/proc/self/fd"], close_fds=False, capture_output=True, text=True
    ).stdout.split(),
    "streams": [_sys.stdout.fileno() > 0, _sys.stderr.fileno() > 0, _sys.__stdout__.fileno()],
    "encodings": [_sys.stdout.encoding, _sys.getfilesystemencoding(), _locale.setlocale(0)],
    "signal mask": [int(number) for number in _signal.pthread_sigmask(0, [])],
    "signals": {
        number.name: _name(_signal.getsignal(number)) for number in _signal.Signals
    },
    "wakeup": _wakeup(),
    "loop": [_asyncio.get_event_loop_policy().__class__.__name__, _sys.flags.dev_mode],
    "limits": [_resource.getrlimit(number) for number in range(16)],
    "umask": [_os.umask(0o22), _os.getpriority(_os.PRIO_PROCESS, 0)],
    "log handlers": len(_logging.root.handlers),
    "extensions": sorted(get_ipython().extension_manager.loaded),
    "recursion": _sys.getrecursionlimit(),
    "debugger": "debugpy" in _sys.modules,
}))
"""


@pytest.fixture(scope="module")
async def snapshots(
    lean: Engine, stock: Engine, plain: Engine, module_settings: Settings
) -> dict[str, dict[str, Any]]:
    """What the first cell of a kernel finds, for each kind of kernel."""

    async def look(engine: Engine) -> dict[str, Any]:
        async with session_of(engine) as session:
            found: dict[str, Any] = await values(session, SNAPSHOT)
            return {**found, "kernel": kernel_of(session).id}

    async with engine_of(module_settings, "plain stock", preload=None) as plain_stock:
        engines = {"lean": lean, "stock": stock, "plain": plain, "plain stock": plain_stock}
        return {name: await look(engine) for name, engine in engines.items()}


PAIRS = [("lean", "plain"), ("stock", "plain stock")]


@pytest.mark.parametrize(("kind", "alike"), PAIRS)
async def test_the_environment_is_that_of_a_plain_kernel(
    snapshots: dict[str, dict[str, Any]], kind: str, alike: str
) -> None:
    ours, theirs = snapshots[kind]["environment"], snapshots[alike]["environment"]
    differences = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    # Each fixture is a server of its own.
    assert differences == {"KERNELAGENT_PROCESS", "KERNELAGENT_SERVER"}
    assert ours["KERNELAGENT_PROCESS"] == snapshots[kind]["kernel"]
    assert theirs["KERNELAGENT_PROCESS"] == snapshots[alike]["kernel"]
    assert not {"JPY_PARENT_PID", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} & set(ours)


@pytest.mark.parametrize(
    "what",
    [
        "path",
        "directory",
        "directory history",
        "names",
        "input",
        "output",
        "history",
        "last error",
        "main",
        "is main",
        "collector",
        "threads",
        "stdin",
        "given to children",
        "streams",
        "encodings",
        "signal mask",
        "signals",
        "wakeup",
        "loop",
        "limits",
        "umask",
        "log handlers",
        "extensions",
        "recursion",
        "debugger",
    ],
)
@pytest.mark.parametrize(("kind", "alike"), PAIRS)
async def test_a_forked_kernel_finds_what_a_plain_one_finds(
    snapshots: dict[str, dict[str, Any]], kind: str, alike: str, what: str
) -> None:
    assert snapshots[kind][what] == snapshots[alike][what]


@pytest.mark.parametrize("kind", FORKED)
async def test_a_forked_kernel_is_a_fresh_process_of_its_own(
    snapshots: dict[str, dict[str, Any]], kind: str, module_settings: Settings
) -> None:
    found = snapshots[kind]
    assert found["input"] == [""]
    assert found["output"] == [{}, "", "", "", ""]
    assert found["last error"] == []
    assert found["directory"] == str(module_settings.workspace)
    assert found["stdin"] == ["/dev/null", ""]
    assert len(set(found["ids"])) == 1
    # Its own three, and that of the listing itself.
    assert found["given to children"] == ["0", "1", "2", "3"]
    assert found["is main"]
    assert found["wakeup"] == -1


@pytest.mark.parametrize("kind", FORKED)
async def test_the_collector_leaves_alone_what_all_kernels_share(
    snapshots: dict[str, dict[str, Any]], kind: str
) -> None:
    assert snapshots[kind]["frozen"] > 50_000
    assert snapshots[kind]["collector"][0] is True


@pytest.mark.parametrize("kind", KINDS)
async def test_the_arguments_are_those_of_a_plain_kernel(
    snapshots: dict[str, dict[str, Any]], kind: str
) -> None:
    program, *arguments = snapshots[kind]["argv"]
    assert program == snapshots["plain"]["argv"][0]
    assert arguments == ["-f", snapshots[kind]["connection file"]]


@pytest.mark.parametrize(("kind", "alike"), PAIRS)
async def test_a_forked_kernel_has_few_descriptors_more_than_a_plain_one(
    snapshots: dict[str, dict[str, Any]], kind: str, alike: str
) -> None:
    more = list(snapshots[kind]["kinds of descriptors"])
    for name in snapshots[alike]["kinds of descriptors"]:
        more.remove(name)
    # Its lifeline, and the channel over which it can be asked for copies.
    assert more == ["pipe:[]", "socket:[]"]


async def test_the_fork_server_stays_as_simple_as_it_was(forked: Engine) -> None:
    async with session_of(forked) as session:
        await run(session, "print(1)")
        server = server_of(forked)
        links = [str(entry.readlink()) for entry in Path(f"/proc/{server}/fd").iterdir()]
        assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1
    assert not [link for link in links if "event" in link or "timer" in link]
    # That to the service.
    assert len([link for link in links if link.startswith("socket")]) == 1


async def test_a_matrix_product_uses_all_cores(forked: Engine) -> None:
    async with session_of(forked) as session:
        assert is_forked(kernel_of(session), forked)
        found = await values(session, COUNT_THREADS)
    assert found["more"] == CORES - 1
    assert found["limits"] == []
