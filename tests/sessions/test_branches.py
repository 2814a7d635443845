"""/sessions/{id}/branch: a copy with all the state, which goes its own way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.runs import (
    client_of,
    messages,
    run,
    session,
    session_facts,
    streamed,
    text_of,
    until_busy,
)
from tests.servers import Server, serving
from tests.sessions.branching import (
    at_rest,
    branch,
    delete,
    descriptors,
    has_ended,
    health,
    post,
    processes,
    refusal,
    until_ended,
)
from tests.waiting import until

PLOT = "import matplotlib.pyplot as plt\nplt.plot([0, {0}]); plt.title('{0}'); plt.show()"
THREAD = """
import threading
stop = threading.Event()
thread = threading.Thread(target=stop.wait, args=(60,), name='the-watcher', daemon=True)
thread.start()
"""
TASK = """
import asyncio
ended = asyncio.Event()
task = asyncio.create_task(ended.wait(), name='the-poller')
await asyncio.sleep(0)
"""


def one_server(tmp_path: Path, **environment: str) -> Iterator[Server]:
    """A server with settings of its own."""
    with serving(tmp_path, **environment) as running:
        yield running


@pytest.fixture
def two_session_server(tmp_path: Path) -> Iterator[Server]:
    """A server that takes two sessions."""
    yield from one_server(tmp_path, KERNELAGENT_MAX_SESSIONS="2")


@pytest.fixture
def two_kernel_server(tmp_path: Path) -> Iterator[Server]:
    """A server that has two kernels at most, none of them in advance."""
    yield from one_server(tmp_path, KERNELAGENT_MAX_KERNELS="2", KERNELAGENT_POOL_IDLE="0")


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[Server]:
    """A server that starts each kernel by itself."""
    yield from one_server(tmp_path, KERNELAGENT_FORK_SERVER="false")


@pytest.fixture
def stock_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose kernels are forked, and of stock classes."""
    yield from one_server(tmp_path, KERNELAGENT_LEAN_KERNEL="false")


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[Server]:
    """A server that may be killed."""
    yield from one_server(tmp_path)


# All the state

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


# Independent


async def test_what_one_changes_the_other_does_not_see(server: Server, tmp_path: Path) -> None:
    setup = "import os, sys, numpy as np; shared = [1]; array = np.zeros(3); gone = 1"
    change = (
        "shared.append('{0}'); array[:] = {1}; del gone; os.environ['WHOSE'] = '{0}'; "
        f"sys.path.append('{{0}}'); os.chdir({str(tmp_path)!r}); new_{{0}} = 1"
    )
    look = (
        "shared, array.tolist(), 'gone' in dir(), os.environ.get('WHOSE'), "
        f"sys.path[-1] == '{{0}}', os.getcwd() == {str(tmp_path)!r}, "
        "[name for name in dir() if name.startswith('new_')]"
    )
    async with session(server) as parent:
        await run(server, setup, session_id=parent)
        async with branch(server, parent) as one, branch(server, parent) as two:
            await run(server, change.format("one", 1), session_id=one)
            seen_by_parent = await run(server, look.format("one"), session_id=parent)
            seen_by_two = await run(server, look.format("one"), session_id=two)
            await run(server, change.format("parent", 2), session_id=parent)
            seen_by_one = await run(server, look.format("one"), session_id=one)
            still_two = await run(server, look.format("one"), session_id=two)

    untouched = "([1], [0.0, 0.0, 0.0], True, None, False, False, [])"
    assert seen_by_parent["result"] == untouched
    assert seen_by_two["result"] == still_two["result"] == untouched
    assert seen_by_one["result"] == (
        "([1, 'one'], [1.0, 1.0, 1.0], False, 'one', True, True, ['new_one'])"
    )


async def test_output_stays_in_its_session_when_all_run_at_once(server: Server) -> None:
    code = "import os\nfor n in range(300): print('{0}', n)\nos.system('echo {0} >&2');"
    async with session(server) as parent:
        await run(server, "print('before')", session_id=parent)
        async with branch(server, parent) as one, branch(server, parent) as two:
            answers = await asyncio.gather(
                *(run(server, code.format(each), session_id=each) for each in (parent, one, two))
            )

    for each, answer in zip((parent, one, two), answers, strict=True):
        assert answer["stdout"] == "".join(f"{each} {n}\n" for n in range(300))
        assert answer["stderr"] == f"{each}\n"


async def test_branch_of_a_branch_of_a_branch(server: Server) -> None:
    async with session(server) as first:
        await run(server, "path = ['first']", session_id=first)
        async with branch(server, first) as second:
            await run(server, "path.append('second')", session_id=second)
            async with branch(server, second) as third:
                await run(server, "path.append('third')", session_id=third)
                async with branch(server, third) as fourth:
                    chain = (first, second, third, fourth)
                    paths = [await run(server, "path", session_id=each) for each in chain]
                    facts = [await session_facts(server, each) for each in chain]
                    files = [descriptors(each["pid"]) for each in facts]
                    threads = [psutil.Process(each["pid"]).num_threads() for each in facts]
                    plotted = await run(server, PLOT.format(1), session_id=fourth)

    assert [answer["result"] for answer in paths] == [
        "['first']",
        "['first', 'second']",
        "['first', 'second', 'third']",
        "['first', 'second', 'third']",
    ]
    assert [each["parent"] for each in facts] == ["", first, second, third]
    assert plotted["png"]
    # Nothing of the ancestors is kept open.
    assert files == [files[0]] * 4
    assert threads == [threads[0]] * 4


async def test_five_branches_at_once_go_on_by_themselves(server: Server) -> None:
    async with session(server) as parent, client_of(server) as client:
        await run(server, "base = list(range(100_000))", session_id=parent)
        responses = await asyncio.gather(
            *(client.post(f"/sessions/{parent}/branch") for _ in range(5))
        )
        made = [response.json() for response in responses]
        try:
            answers = await asyncio.gather(
                *(
                    run(
                        server,
                        f"mine = {n}; base.append(mine); print(base[-1], len(base))\n"
                        + PLOT.format(n),
                        session_id=each["id"],
                    )
                    for n, each in enumerate(made)
                )
            )
            untouched = await run(server, "len(base)", session_id=parent)
        finally:
            await asyncio.gather(*(delete(server, each["id"]) for each in made))

    assert [response.status_code for response in responses] == [201] * 5
    assert len({each["pid"] for each in made}) == 5
    assert [answer["stdout"] for answer in answers] == [f"{n} 100001\n" for n in range(5)]
    assert len({answer["png"] for answer in answers}) == 5
    assert untouched["result"] == "100000"


# Ends of one and the other


async def test_branch_survives_the_deletion_of_its_parent(server: Server) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            pid = (await session_facts(server, parent))["pid"]
            await delete(server, parent)
            await until_ended(pid)
            await goes_on(server, child)


async def test_branch_survives_the_restart_of_its_parent(server: Server) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            await post(server, f"/sessions/{parent}/restart")
            await goes_on(server, child)
            fresh = await run(server, "'kept' in dir()", session_id=parent)

    assert fresh["result"] == "False"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_branch_survives_the_death_of_its_parent(
    server: Server, number: signal.Signals
) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            pid = (await session_facts(server, parent))["pid"]
            os.kill(pid, number)
            await until_ended(pid)
            await goes_on(server, child)


async def test_parent_survives_the_ends_of_its_branches(server: Server) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with (
            branch(server, parent) as deleted,
            branch(server, parent) as restarted,
            branch(server, parent) as killed,
        ):
            pid = (await session_facts(server, killed))["pid"]
            await delete(server, deleted)
            await post(server, f"/sessions/{restarted}/restart")
            os.kill(pid, signal.SIGKILL)
            await until_ended(pid)
            await goes_on(server, parent)


async def goes_on(server: Server, session_id: str) -> None:
    """The session has its state, and can do what sessions can."""
    answer = await run(server, "print('printed'); kept", session_id=session_id)
    plotted = await run(server, PLOT.format(2), session_id=session_id)
    assert (answer["stdout"], answer["result"], answer["notes"]) == ("printed\n", "1", [])
    assert plotted["png"]


async def test_what_a_session_has_started_ends_with_it_alone(server: Server) -> None:
    code = """
import subprocess
daemon = subprocess.Popen(['sleep', '60'], start_new_session=True)
other = subprocess.Popen(['sleep', '60'], start_new_session=True, env={'PATH': '/bin:/usr/bin'})
daemon.pid, other.pid
"""
    async with session(server) as parent:
        of_parent = pids(await run(server, code, session_id=parent))
        async with branch(server, parent) as child:
            of_child = pids(await run(server, code, session_id=child))
            await delete(server, parent)
            await until_ended(*of_parent)
            alive = [not has_ended(pid) for pid in of_child]
        await until_ended(*of_child)

    assert alive == [True, True]


def pids(answer: dict[str, Any]) -> list[int]:
    return [int(pid) for pid in answer["result"].strip("()").split(",")]


async def test_branches_end_with_the_service(mortal_server: Server) -> None:
    async with client_of(mortal_server) as client:
        made = [(await client.post("/sessions")).json()]
        for _ in range(2):
            made.append((await client.post(f"/sessions/{made[-1]['id']}/branch")).json())
        await client.post(f"/sessions/{made[-1]['id']}/checkpoints")
    below = processes(mortal_server)

    mortal_server.process.kill()

    assert {each["pid"] for each in made} < below
    await until_ended(*below)


# What a branch can do


async def test_output_of_children_and_of_descriptors(server: Server) -> None:
    code = """
import os, subprocess, sys
print('printed', flush=True)
os.write(1, b'written\\n')
os.system('echo by a shell')
subprocess.run(['sh', '-c', 'echo by a child; echo wrong >&2'])
print(subprocess.check_output(['echo', 'captured'], text=True), end='')
"""
    async with session(server) as parent, branch(server, parent) as child:
        answer = await run(server, code, session_id=child)

    lines = ["printed", "written", "by a shell", "by a child", "captured"]
    assert sorted(answer["stdout"].split("\n")) == sorted([*lines, ""])
    assert answer["stderr"] == "wrong\n"


async def test_await_in_a_branch(server: Server) -> None:
    code = "import asyncio\nawait asyncio.sleep(0.01)\nawait asyncio.to_thread(lambda: 6 * 7)"
    async with session(server) as parent:
        await run(server, "import asyncio; await asyncio.sleep(0)", session_id=parent)
        async with branch(server, parent) as child:
            answer = await run(server, code, session_id=child)
            in_parent = await run(server, code, session_id=parent)

    assert answer["result"] == in_parent["result"] == "42"


WAITING = [
    "import time; time.sleep(60)",
    "import asyncio; await asyncio.sleep(60)",
    "while True: pass",
    "import subprocess; subprocess.run(['sleep', '60'])",
]


@pytest.mark.parametrize("code", WAITING)
async def test_interrupt_of_a_branch_ends_its_run_alone(server: Server, code: str) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            in_child = asyncio.create_task(run(server, code, session_id=child))
            in_parent = asyncio.create_task(run(server, code, session_id=parent))
            await until_busy(server, child)
            await until_busy(server, parent)

            response = await post(server, f"/sessions/{child}/interrupt")
            answer = await in_child
            after = await run(server, "kept", session_id=child)
            still_busy = (await session_facts(server, parent))["state"]
            await post(server, f"/sessions/{parent}/interrupt")
            ended = await in_parent

    assert response.json()["interrupted"] is True
    assert answer["outcome"] == ended["outcome"] == "interrupted"
    assert answer["state_lost"] is False
    assert after["result"] == "1"
    assert still_busy == "busy"


async def test_time_limit_in_a_branch_leaves_its_state(server: Server) -> None:
    async with session(server) as parent:
        await run(server, "kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            answer = await run(server, WAITING[0], session_id=child, timeout=0.2)
            after = await run(server, "kept", session_id=child)

    assert answer["outcome"] == "timeout"
    assert answer["exit_code"] == 124
    assert answer["state_lost"] is False
    assert after["result"] == "1"


async def test_branch_asks_for_input_over_its_stream(server: Server) -> None:
    async with (
        session(server) as parent,
        branch(server, parent) as child,
        streamed(server, "print('Hello', input('Name? '))", session_id=child) as response,
    ):
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "input_request":
                wrong = await post(server, f"/sessions/{parent}/input", value="parent")
                await post(server, f"/sessions/{child}/input", value="Ada")

    assert refusal(wrong, 409) == "NO_INPUT_AWAITED"
    assert text_of(items) == "Hello Ada\n"


async def test_branch_is_asked_for_variables_completions_and_documentation(
    server: Server,
) -> None:
    async with session(server) as parent, client_of(server) as client:
        await run(server, "elephant = 1\ndef f(): 'What f does.'", session_id=parent)
        async with branch(server, parent) as child:
            await run(server, "elegant = 2", session_id=child)
            listed = (await client.get(f"/sessions/{child}/variables")).json()
            of_parent = (await client.get(f"/sessions/{parent}/variables")).json()
            completed = await post(server, f"/sessions/{child}/complete", code="ele")
            inspected = await post(server, f"/sessions/{child}/inspect", code="f")

    assert [item["name"] for item in listed["variables"]] == ["elephant", "f", "elegant"]
    assert [item["name"] for item in of_parent["variables"]] == ["elephant", "f"]
    assert completed.json()["matches"] == ["elegant", "elephant"]
    assert "What f does." in inspected.json()["data"]["text/plain"]


@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [
        ("os._exit(3)", 3, "exit code 3"),
        ("os.kill(os.getpid(), 9)", 137, "SIGKILL"),
        ("import ctypes, time; time.sleep(0.1); ctypes.string_at(0)", 139, "Segmentation fault"),
    ],
)
async def test_end_of_a_branch_is_told_with_its_status(
    server: Server, code: str, exit_code: int, cause: str
) -> None:
    async with session(server) as parent:
        await run(server, "import os; kept = 1", session_id=parent)
        async with branch(server, parent) as child:
            answer = await run(server, f"print('partial')\n{code}", session_id=child)
            after = await run(server, "'kept' in dir()", session_id=child)
            of_parent = await run(server, "kept", session_id=parent)

    assert answer["outcome"] == "kernel_died"
    assert answer["exit_code"] == exit_code
    assert answer["stdout"] == "partial\n"
    assert cause in answer["stderr"]
    assert answer["state_lost"] is True
    assert after["result"] == "False"
    assert of_parent["result"] == "1"


async def test_fresh_kernel_of_a_branch_has_the_environment_and_directory_of_its_session(
    server: Server, tmp_path: Path
) -> None:
    look = "import os; os.environ.get('OWN'), os.path.basename(os.getcwd())"
    async with (
        session(server, env={"OWN": "1"}, workdir=str(tmp_path)) as parent,
        branch(server, parent) as child,
    ):
        before = await run(server, look, session_id=child)
        await run(server, "os._exit(1)", session_id=child)
        after = await run(server, look, session_id=child)
        facts = await session_facts(server, child)

    assert before["result"] == after["result"] == f"('1', {tmp_path.name!r})"
    assert facts["workdir"] == str(tmp_path)
    assert facts["generation"] == 2


async def test_environment_and_directory_of_a_run_are_undone_in_a_branch_too(
    server: Server, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    look = (
        "import os; os.environ.get('OWN'), os.environ.get('GIVEN'), os.path.basename(os.getcwd())"
    )
    scope: dict[str, Any] = {"env": {"OWN": "request", "GIVEN": "1"}, "workdir": str(inner)}
    async with session(server, env={"OWN": "session"}, workdir=str(tmp_path)) as parent:
        await run(server, look, session_id=parent, **scope)
        async with branch(server, parent) as child:
            first = await run(server, look, session_id=child)
            during = await run(server, look, session_id=child, **scope)
            after = await run(server, look, session_id=child)

    outside = f"('session', None, {tmp_path.name!r})"
    assert first["result"] == after["result"] == outside
    assert during["result"] == "('request', '1', 'inner')"


# Its turn


def waiting(path: Path) -> str:
    """Code that waits until `path` exists."""
    return f"import pathlib, time\nwhile not pathlib.Path({str(path)!r}).exists(): time.sleep(0.01)"


async def test_branch_has_what_was_submitted_before_it_and_nothing_of_what_came_after(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as parent:
        await run(server, "done = []", session_id=parent)
        code = f"{waiting(tmp_path / 'go')}\ndone.append({{}})"
        work = [asyncio.create_task(run(server, code.format(1), session_id=parent))]
        await until_busy(server, parent)
        work.append(asyncio.create_task(run(server, code.format(2), session_id=parent)))
        await until_busy(server, parent, queued=1)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch"))
        await until_busy(server, parent, queued=2)
        work.append(asyncio.create_task(run(server, code.format(3), session_id=parent)))
        await until_busy(server, parent, queued=3)

        (tmp_path / "go").touch()
        child = (await branching).json()["id"]
        answers = await asyncio.gather(*work)
        in_child = await run(server, "done", session_id=child)
        in_parent = await run(server, "done", session_id=parent)
        await delete(server, child)

    assert [answer["outcome"] for answer in answers] == ["ok"] * 3
    assert in_child["result"] == "[1, 2]"
    assert in_parent["result"] == "[1, 2, 3]"


async def test_branch_whose_turn_does_not_come_is_given_up(server: Server) -> None:
    async with session(server) as parent:
        running = asyncio.create_task(run(server, WAITING[0], session_id=parent))
        await until_busy(server, parent)

        response = await post(server, f"/sessions/{parent}/branch", id="late", timeout=0.2)
        left = await health(server)
        facts = await session_facts(server, parent)
        again = await post(server, f"/sessions/{parent}/branch", id="late", timeout=0.2)
        await post(server, f"/sessions/{parent}/interrupt")
        answer = await running
        async with branch(server, parent, id="late", timeout=30) as child:
            assert child == "late"

    assert refusal(response, 409) == refusal(again, 409) == "QUEUE_TIMEOUT"
    assert response.json()["details"] == {"timeout": 0.2}
    assert left["sessions"] >= 1
    assert (facts["state"], facts["queued"]) == ("busy", 0)
    assert answer["outcome"] == "interrupted"


async def test_deletion_of_the_parent_ends_the_wait_for_its_turn(server: Server) -> None:
    async with session(server) as parent:
        running = asyncio.create_task(run(server, WAITING[0], session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch", id="never"))
        await until_busy(server, parent, queued=1)

        await delete(server, parent)
        response = await branching
        await running

    assert refusal(response, 409) == "SESSION_CLOSED"
    async with client_of(server) as client:
        assert refusal(await client.get("/sessions/never"), 404) == "SESSION_NOT_FOUND"


async def test_run_that_comes_before_its_branch_waits_for_it(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as parent:
        code = f"{waiting(tmp_path / 'go')}\nkept = 1"
        running = asyncio.create_task(run(server, code, session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch", id="early"))
        await until_busy(server, parent, queued=1)
        early = asyncio.create_task(run(server, "kept", session_id="early"))
        await until_busy(server, "early")
        asked = await post(server, "/sessions/early/complete", code="k", timeout=0.1)

        (tmp_path / "go").touch()
        made = (await branching).json()
        answer = await early
        await running
        await delete(server, "early")

    assert refusal(asked, 409) == "SESSION_BUSY"
    assert (answer["outcome"], answer["result"], answer["notes"]) == ("ok", "1", [])
    assert made["generation"] == 1


async def test_run_that_comes_before_a_branch_that_fails_is_told(server: Server) -> None:
    async with session(server) as parent, client_of(server) as client:
        running = asyncio.create_task(run(server, WAITING[0], session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch", id="never"))
        await until_busy(server, parent, queued=1)
        early = asyncio.create_task(
            client.post("/execute", json={"code": "kept", "session_id": "never"})
        )
        await until_busy(server, "never")
        await delete(server, parent)
        refused = await branching
        answer = await early
        await running

    assert refusal(refused, 409) == refusal(answer, 409) == "SESSION_CLOSED"


async def test_branch_that_waits_longer_than_sessions_may_idle_is_made(
    server: Server, tmp_path: Path
) -> None:
    async with (
        session(server, idle_timeout=0.1) as parent,
        session(server, idle_timeout=0.1) as idle,
    ):
        code = waiting(tmp_path / "go")
        running = asyncio.create_task(run(server, code, session_id=parent))
        await until_busy(server, parent)
        branching = asyncio.create_task(post(server, f"/sessions/{parent}/branch"))
        await until_busy(server, parent, queued=1)

        async def has_swept() -> bool:
            async with client_of(server) as client:
                return (await client.get(f"/sessions/{idle}")).status_code == 404

        await until(has_swept)
        (tmp_path / "go").touch()
        response = await branching
        await running
        await delete(server, response.json().get("id", ""))

    assert response.status_code == 201, response.text


# Refused


async def test_thread_that_runs_is_a_reason_to_refuse_unless_forced(server: Server) -> None:
    async with session(server) as parent:
        await run(server, f"{THREAD}\nkept = 1", session_id=parent)

        response = await post(server, f"/sessions/{parent}/branch")
        async with branch(server, parent, force=True) as child:
            in_child = await run(server, "kept, thread.is_alive()", session_id=child)
        in_parent = await run(server, "kept, thread.is_alive()", session_id=parent)
        await run(server, "stop.set(); thread.join()", session_id=parent)
        async with branch(server, parent):
            pass

    assert refusal(response, 409) == "BRANCH_REFUSED"
    assert "1 thread running (the-watcher)" in response.json()["error"]
    assert "force" in response.json()["error"]
    assert in_child["result"] == "(1, False)"
    assert in_parent["result"] == "(1, True)"


async def test_task_that_runs_is_a_reason_to_refuse_unless_forced(server: Server) -> None:
    async with session(server) as parent:
        await run(server, f"{TASK}\nkept = 1", session_id=parent)

        response = await post(server, f"/sessions/{parent}/branch")
        async with branch(server, parent, force=True) as child:
            code = "import gc; del task; gc.collect(); await asyncio.sleep(0.01); kept"
            in_child = await run(server, code, session_id=child)
            later = await run(server, "kept", session_id=child)
        code = "ended.set(); await task; task.done()"
        in_parent = await run(server, code, session_id=parent)
        async with branch(server, parent):
            pass

    assert refusal(response, 409) == "BRANCH_REFUSED"
    assert "1 asyncio task running (the-poller)" in response.json()["error"]
    assert in_child["outcome"] == "ok"
    assert in_child["result"] == later["result"] == "1"
    assert in_child["stderr"] == later["stderr"] == ""
    assert in_parent["result"] == "True"


async def test_kernel_that_was_started_by_itself_cannot_be_branched(plain_server: Server) -> None:
    async with session(plain_server) as parent:
        response = await post(plain_server, f"/sessions/{parent}/branch")
        forced = await post(plain_server, f"/sessions/{parent}/branch", force=True)
        after = await run(plain_server, "1 + 1", session_id=parent)
        facts = await health(plain_server)

    assert refusal(response, 409) == refusal(forced, 409) == "BRANCH_REFUSED"
    assert "started by itself" in response.json()["error"]
    assert after["result"] == "2"
    assert facts["features"]["branches"] is False
    assert facts["sessions"] == 1


async def test_kernel_of_stock_classes_cannot_be_branched(stock_server: Server) -> None:
    async with session(stock_server) as parent:
        response = await post(stock_server, f"/sessions/{parent}/branch")
        kept = await post(stock_server, f"/sessions/{parent}/checkpoints", force=True)
        after = await run(stock_server, "1 + 1", session_id=parent)
        facts = await health(stock_server)

    assert refusal(response, 409) == refusal(kept, 409) == "BRANCH_REFUSED"
    assert "stock" in response.json()["error"]
    assert "KERNELAGENT_LEAN_KERNEL" in response.json()["error"]
    assert after["result"] == "2"
    assert facts["fork_servers"]["python"]["kernel"] == "stock"
    assert facts["features"]["branches"] is False


async def test_wished_id_that_is_taken(server: Server) -> None:
    async with session(server, id="taken") as parent:
        response = await post(server, f"/sessions/{parent}/branch", id="taken")

    assert refusal(response, 409) == "SESSION_EXISTS"


@pytest.mark.parametrize(
    "wishes",
    [
        {"id": "default"},
        {"id": "default-python"},
        {"id": "a b"},
        {"id": ""},
        {"id": "x" * 65},
        {"id": 1},
        {"unknown": 1},
        {"language": "python"},
        {"name": "x" * 201},
        {"force": "perhaps"},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": 3601},
        {"timeout": "soon"},
    ],
    ids=str,
)
async def test_bad_wishes_are_refused_and_leave_nothing(
    server: Server, wishes: dict[str, Any]
) -> None:
    async with session(server) as parent:
        before = await health(server)
        response = await post(server, f"/sessions/{parent}/branch", **wishes)
        after = await health(server)

    assert refusal(response, 400) == "INVALID_REQUEST"
    assert before["sessions"] == after["sessions"]


async def test_unknown_session_cannot_be_branched(server: Server) -> None:
    response = await post(server, "/sessions/unknown/branch")

    assert refusal(response, 404) == "SESSION_NOT_FOUND"


async def test_limit_of_sessions_holds_for_branches(two_session_server: Server) -> None:
    async with session(two_session_server) as parent:
        async with branch(two_session_server, parent) as child:
            response = await post(two_session_server, f"/sessions/{child}/branch")
            again = await run(two_session_server, "1 + 1", session_id=child)
        async with branch(two_session_server, parent):
            pass

    assert refusal(response, 409) == "SESSION_LIMIT"
    assert response.json()["details"] == {"limit": 2}
    assert again["result"] == "2"


async def test_limit_of_kernels_holds_for_branches(two_kernel_server: Server) -> None:
    async with session(two_kernel_server) as parent:
        async with branch(two_kernel_server, parent) as child:
            response = await post(two_kernel_server, f"/sessions/{child}/branch", id="third")
            left = await health(two_kernel_server)
        async with branch(two_kernel_server, parent):
            pass

    assert refusal(response, 409) == "SESSION_LIMIT"
    assert "2 kernels" in response.json()["error"]
    assert left["sessions"] == 2


async def test_failed_branches_leave_no_session_process_or_descriptor(server: Server) -> None:
    async with session(server) as parent:
        await run(server, THREAD, session_id=parent)
        pid = (await session_facts(server, parent))["pid"]
        wishes: list[dict[str, Any]] = [{}, {"id": "taken"}, {"id": "a b"}, {"timeout": 30}]
        async with session(server, id="taken") as taken:
            await run(server, "1", session_id=taken)
            before = await traces(server, pid)
            for _ in range(5):
                responses = await asyncio.gather(
                    *(post(server, f"/sessions/{parent}/branch", **each) for each in wishes)
                )
                assert all(response.is_client_error for response in responses)
            after = await traces(server, pid)

    assert after == before


async def traces(server: Server, pid: int) -> dict[str, Any]:
    """What a failure could leave behind."""

    async def read() -> dict[str, Any]:
        return {
            "sessions": (await health(server))["sessions"],
            "processes": processes(server),
            "descriptors of the server": descriptors(server.process.pid),
            "descriptors of the kernel": descriptors(pid),
            "threads of the kernel": psutil.Process(pid).num_threads(),
        }

    return await at_rest(server, read)


# Told


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id": null, "name": null, "timeout": null}'])
async def test_branch_needs_no_wishes(server: Server, content: bytes) -> None:
    async with (
        session(server) as parent,
        client_of(server, **{"Content-Type": "application/json"}) as client,
    ):
        response = await client.post(f"/sessions/{parent}/branch", content=content)
        await delete(server, response.json()["id"])

    assert response.status_code == 201


async def test_branch_is_told_in_full(server: Server, tmp_path: Path) -> None:
    wishes = {"name": "parent's", "workdir": str(tmp_path), "idle_timeout": 77}
    async with session(server, **wishes) as parent, client_of(server) as client:
        await run(server, "1", session_id=parent)
        response = await client.post(
            f"/sessions/{parent}/branch", json={"id": "a-branch", "name": "A label"}
        )
        made = response.json()
        facts = await session_facts(server, parent)
        listed = (await client.get("/sessions")).json()["sessions"]
        in_jupyter = (await client.get("/jupyter/sessions")).json()["sessions"]
        await delete(server, "a-branch")

    assert response.status_code == 201
    assert made["id"] == "a-branch"
    assert made["name"] == "A label"
    assert made["parent"] == parent
    assert made["language"] == "python"
    assert made["is_default"] is False
    assert made["state"] == "idle"
    assert made["generation"] == 1
    assert made["workdir"] == str(tmp_path)
    assert made["idle_timeout"] == 77
    assert (made["executions"], made["transcript"], made["queued"]) == (0, [], 0)
    assert made["pid"] != facts["pid"]
    assert made["kernel_id"] != facts["kernel_id"]
    assert [each["parent"] for each in listed if each["id"] in (parent, "a-branch")] == ["", parent]
    (told,) = [each for each in in_jupyter if each["id"] == "a-branch"]
    assert told["parent"] == parent
    assert told["kernel_id"] == made["kernel_id"]


async def test_branch_of_a_session_that_may_idle_may_idle_too(server: Server) -> None:
    async with session(server, idle_timeout=0) as parent, branch(server, parent) as child:
        facts = await session_facts(server, child)

    assert facts["idle_timeout"] == 0


async def test_default_session_can_be_branched(server: Server) -> None:
    # Other tests have left threads in it.
    await run(server, "pass")
    assert (await post(server, "/sessions/default/restart")).status_code == 200
    await run(server, "of_default = 5")
    async with branch(server, "default") as child:
        facts = await session_facts(server, child)
        answer = await run(server, "of_default", session_id=child)
        await run(server, "of_default = 6", session_id=child)
    own = await run(server, "of_default")

    assert facts["parent"] == "default-python"
    assert facts["is_default"] is False
    # The default session stays for ever; a copy of it does not.
    assert facts["idle_timeout"] == 3600
    assert answer["result"] == own["result"] == "5"
