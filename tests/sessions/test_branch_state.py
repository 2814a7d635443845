"""A branch has all the state of its session: variables, modules, figures, files, random numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import run, session, session_facts
from tests.servers import Server
from tests.sessions.branching import branch

STATE = {
    "variables": ("number = 3; texts = ['a', 'b']", "number, texts", "(3, ['a', 'b'])"),
    "functions": ("def double(x): return 2 * x", "double(21)", "42"),
    "classes": (
        "class Point:\n    def __init__(self, x): self.x = x\npoint = Point(5)",
        "isinstance(point, Point), point.x, Point(6).x",
        "(True, 5, 6)",
    ),
    "imported modules": (
        "import wave, numpy as np; wave.mark = 7",
        "wave.mark, __import__('wave') is wave, int(np.arange(4).sum())",
        "(7, True, 6)",
    ),
    "generators": (
        "def count():\n    for n in range(9): yield n\nnumbers = count(); next(numbers)",
        "next(numbers)",
        "1",
    ),
    "context": (
        "import contextvars; level = contextvars.ContextVar('level'); token = level.set(3)",
        "level.get()",
        "3",
    ),
    "history": ("40 + 2", "_1, Out[1], In[1]", "(42, 42, '40 + 2')"),
    "frames": (
        "import pandas as pd; frame = pd.DataFrame({'a': range(100)})",
        "int(frame.a.sum()), frame.shape",
        "(4950, (100, 1))",
    ),
    "environment": (
        "import os, subprocess; os.environ['SET_BY_CODE'] = 'a b'",
        "os.environ['SET_BY_CODE'], subprocess.getoutput('echo $SET_BY_CODE')",
        "('a b', 'a b')",
    ),
    "threads that have ended": (
        "import threading\nthread = threading.Thread(target=print); thread.start(); thread.join()",
        "thread.is_alive()",
        "False",
    ),
    "libraries that use all cores": (
        "import numpy as np; a = np.ones((600, 600)); b = a @ a",
        "float((b @ a)[0, 0])",
        "360000.0",
    ),
}


@pytest.mark.parametrize("what", STATE)
async def test_branch_has_what_was_there(server: Server, what: str) -> None:
    made, code, expected = STATE[what]
    async with session(server) as parent:
        assert (await run(server, made, session_id=parent))["success"] is True
        async with branch(server, parent) as child:
            answer = await run(server, code, session_id=child)
            own = await run(server, code.replace("next(", "(lambda _: 1)("), session_id=parent)

    assert answer["result"] == expected
    assert own["result"] == expected


async def test_branch_begins_in_the_directory_that_its_parent_is_in(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as parent:
        await run(server, f"import os; os.chdir({str(tmp_path)!r})", session_id=parent)
        async with branch(server, parent) as child:
            await run(server, "open('made', 'w').write('x')", session_id=child)
            answer = await run(server, "os.getcwd()", session_id=child)

    assert answer["result"] == repr(str(tmp_path))
    assert (tmp_path / "made").read_text() == "x"


async def test_execution_count_goes_on_in_both(server: Server) -> None:
    async with session(server) as parent:
        for _ in range(3):
            await run(server, "1", session_id=parent)
        async with branch(server, parent) as child:
            in_child = [await run(server, "1", session_id=child) for _ in range(2)]
            in_parent = await run(server, "1", session_id=parent)

    assert [answer["execution_count"] for answer in in_child] == [4, 5]
    assert in_parent["execution_count"] == 4


async def test_random_numbers_are_equal_on_purpose_and_secrets_are_not(server: Server) -> None:
    setup = """
import random, secrets, uuid, numpy
random.seed(1); numpy.random.seed(1); generator = numpy.random.default_rng(1)
random.random(), numpy.random.rand(), generator.random()
"""
    draw = "[random.random(), float(numpy.random.rand()), float(generator.random())]"
    secret = "secrets.token_hex(), uuid.uuid4().hex"
    async with session(server) as parent:
        await run(server, setup, session_id=parent)
        async with branch(server, parent) as one, branch(server, parent) as two:
            drawn = [
                (await run(server, draw, session_id=each))["result"] for each in (parent, one, two)
            ]
            again = (await run(server, draw, session_id=one))["result"]
            secrets = [
                (await run(server, secret, session_id=each))["result"]
                for each in (parent, one, two)
            ]

    assert drawn[0] == drawn[1] == drawn[2]
    assert again != drawn[0]
    assert len(set(secrets)) == 3


async def test_figure_that_was_not_shown_yet_can_be_shown_in_both(server: Server) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.ioff(); plt.plot([1, 3, 2])"
    async with session(server) as parent:
        drawn = await run(server, f"{draw}\nlen(plt.get_fignums())", session_id=parent)
        async with branch(server, parent) as child:
            await run(server, "plt.title('of the branch')", session_id=child)
            in_child = await run(server, "plt.show()", session_id=child)
            in_parent = await run(server, "plt.show()", session_id=parent)

    assert (drawn["result"], drawn.get("png")) == ("1", None)
    assert in_child["png"]
    assert in_parent["png"]
    assert in_child["png"] != in_parent["png"]


async def test_log_handlers_that_kept_stderr_write_to_the_own_session(server: Server) -> None:
    setup = """
import logging, sys
log = logging.getLogger('mine'); log.addHandler(logging.StreamHandler())
kept_out, kept_err = sys.stdout, sys.stderr
"""
    code = "log.warning('logged {0}'); print('out {0}', file=kept_out); kept_err.write('err {0}')"
    async with session(server) as parent:
        await run(server, setup, session_id=parent)
        async with branch(server, parent) as child:
            in_child = await run(server, code.format(1) + ";", session_id=child)
            in_parent = await run(server, code.format(2) + ";", session_id=parent)

    assert (in_child["stdout"], in_child["stderr"]) == ("out 1\n", "logged 1\nerr 1")
    assert (in_parent["stdout"], in_parent["stderr"]) == ("out 2\n", "logged 2\nerr 2")


async def test_open_file_can_be_read_on_and_shares_its_place(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("abcdef")
    async with session(server, workdir=str(tmp_path)) as parent:
        code = "import os; file = open('file', buffering=1); raw = os.open('file', os.O_RDONLY)"
        await run(server, f"{code}; file.read(2), os.read(raw, 2)", session_id=parent)
        async with branch(server, parent) as child:
            in_child = await run(server, "file.read(2), os.read(raw, 2)", session_id=child)
            in_parent = await run(server, "os.read(raw, 2)", session_id=parent)

    assert in_child["result"] == "('cd', b'cd')"
    assert in_parent["result"] == "b'ef'"


async def test_branch_of_much_memory_takes_little(server: Server) -> None:
    async with session(server) as parent:
        code = "import numpy as np; big = np.ones(50_000_000); big.nbytes"
        made = await run(server, code, session_id=parent, timeout=120)
        async with branch(server, parent) as child:
            answer = await run(server, "float(big[::4096].sum())", session_id=child)
            private = private_memory((await session_facts(server, child))["pid"])
            await run(server, "big[:25_000_000] = 2", session_id=child)
            own = private_memory((await session_facts(server, child))["pid"])
            untouched = await run(server, "float(big.max())", session_id=parent)

    assert made["result"] == "400000000"
    assert answer["result"] == "12208.0"
    assert private < 50 * 2**20
    assert own > 200 * 2**20 - 50 * 2**20
    assert untouched["result"] == "1.0"


def private_memory(pid: int) -> int:
    """Bytes that a process has written to and shares with nobody."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")
