"""A branch and its session go their own ways, and end one without the other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.runs import client_of, run, session, session_facts
from tests.servers import Server, serving
from tests.sessions.branching import (
    branch,
    delete,
    descriptors,
    has_ended,
    post,
    processes,
    until_ended,
)

PLOT = "import matplotlib.pyplot as plt\nplt.plot([0, {0}]); plt.title('{0}'); plt.show()"


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[Server]:
    """A server that may be killed."""
    with serving(tmp_path, KERNELAGENT_PRELOAD="") as running:
        yield running


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
