"""Watches under load, and what is left of them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Server, start_server, stop_server
from tests.files.watchers import (
    Watcher,
    events,
    leftovers,
    socket_to,
    until_on,
    watched,
    watches,
)
from tests.runs import client_of, until

COUNT = 10_000


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which nothing else happens."""
    root = tmp_path_factory.mktemp("quiet")
    running = start_server(root / "workspace", root / "state", KERNELAGENT_POOL_IDLE="0")
    try:
        yield running
    finally:
        stop_server(running)


@dataclass
class Pulse:
    """How long the server took to answer small requests; seconds."""

    longest: float = 0.0
    count: int = 0


@asynccontextmanager
async def pulse(server: Server) -> AsyncIterator[Pulse]:
    """Ask the server over and over, from a process of its own: this one is busy too."""
    program = (
        "import http.client, sys, time\n"
        f"connection = http.client.HTTPConnection('{server.url.removeprefix('http://')}')\n"
        "print('on', flush=True)\n"
        "sys.stdin.fileno()\n"
        "import select\n"
        "times = []\n"
        "while not select.select([sys.stdin], [], [], 0.005)[0]:\n"
        "    began = time.perf_counter()\n"
        "    connection.request('GET', '/ping')\n"
        "    connection.getresponse().read()\n"
        "    times.append(time.perf_counter() - began)\n"
        "print(max(times), len(times))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    found = Pulse()
    try:
        yield found
    finally:
        output, _ = await process.communicate(b"\n")
    longest, count = output.split()
    found.longest, found.count = float(longest), int(count)


def do(program: str, root: Path) -> Any:
    """Run a program in another process, as those are who change files."""
    return asyncio.to_thread(subprocess.run, [sys.executable, "-c", program, str(root)], check=True)


_CREATE = """
import os, sys
os.mkdir(sys.argv[1] + '/many')
for number in range(10000):
    with open(f'{sys.argv[1]}/many/{number}', 'w') as file:
        file.write('1')
"""
_MODIFY = """
import sys
for number in range(10000):
    with open(f'{sys.argv[1]}/many/{number}', 'a') as file:
        file.write('2')
"""


def lost(watcher: Watcher) -> bool:
    return any(message["type"] == "overflow" for message in watcher.seen)


async def test_ten_thousand_files_at_once(quiet_server: Server, tmp_path: Path) -> None:
    names = {f"many/{number}" for number in range(COUNT)}
    memory = psutil.Process(quiet_server.process.pid).memory_info
    async with events(quiet_server, tmp_path) as watcher:
        before = memory().rss
        figures = {}
        for event, work in {
            "created": do(_CREATE, tmp_path),
            "modified": do(_MODIFY, tmp_path),
            "renamed": asyncio.to_thread((tmp_path / "many").rename, tmp_path / "moved"),
            "deleted": asyncio.to_thread(shutil.rmtree, tmp_path / "moved"),
        }.items():
            watcher.seen.clear()
            async with pulse(quiet_server) as found:
                began = time.monotonic()
                await work
                worked = time.monotonic() - began
                changes = await watcher.settle()
            figures[event] = (worked, time.monotonic() - began, found.longest)
            assert not lost(watcher)
            told = {path for kind, path in changes if kind == event}
            if event == "renamed":
                assert changes == [("renamed", "many -> moved")]
            elif event == "deleted":
                assert told == {"moved", *(name.replace("many", "moved") for name in names)}
            else:
                assert names <= told
            if event == "created":
                assert told == {"many", *names}
                # No file is told as new twice.
                assert len([path for kind, path in changes if kind == event]) == len(told)
            assert found.count > 20
        grown = memory().rss - before
    print({name: [round(item, 3) for item in row] for name, row in figures.items()}, grown)
    assert grown < 64 * 2**20
    for name, row in figures.items():
        assert row[2] < 0.05, (name, figures)


async def test_many_directories(quiet_server: Server, tmp_path: Path) -> None:
    async with pulse(quiet_server) as found:
        async with events(quiet_server, tmp_path) as watcher:
            for number in range(3000):
                (tmp_path / f"{number % 10}" / f"{number}").mkdir(parents=True)
            await watcher.settle()
            for number in range(3000):
                (tmp_path / f"{number % 10}" / f"{number}" / "a").touch()
            changes = await watcher.settle()
            assert sorted(changes) == sorted(
                ("created", f"{number % 10}/{number}/a") for number in range(3000)
            )
            _, _, instances = leftovers(quiet_server.process.pid)
            assert instances <= 10
            shutil.rmtree(tmp_path / "1")
            await watcher.settle()
        async with events(quiet_server, tmp_path) as watcher:
            (tmp_path / "2" / "2" / "b").touch()
            assert await watcher.settle() == [("created", "2/2/b")]
    assert found.longest < 0.05


async def test_all_is_told_while_all_changes(quiet_server: Server, tmp_path: Path) -> None:
    """What a client has been told is what is there, however it came about."""
    program = """
import os, random, shutil, sys
root, seed = sys.argv[1], 7
rng = random.Random(seed)
os.chdir(root)
for number in range(6000):
    directories = [''] + [f'{a}/' for a in range(5)] + [f'{a}/{b}/' for a in range(5) for b in range(3)]
    directory, other = rng.choice(directories), rng.choice(directories)
    name, new = f'{directory}f{rng.randrange(40)}', f'{other}f{rng.randrange(40)}'
    try:
        match rng.randrange(6):
            case 0 | 1:
                open(name, 'a').write('x')
            case 2:
                os.unlink(name)
            case 3:
                os.rename(name, new)
            case 4:
                os.makedirs(other or '.', exist_ok=True)
            case 5 if rng.randrange(20) == 0:
                shutil.rmtree(directory or 'none')
            case _:
                os.rename(directory.rstrip('/'), other.rstrip('/'))
    except OSError:
        pass
"""
    (tmp_path / "0").mkdir()
    async with events(quiet_server, tmp_path) as watcher:
        await do(program, tmp_path)
        # What was missed is found when the tree is looked through, after a while of silence.
        async with asyncio.timeout(30):
            known: set[str] = {"0"}
            while known != there(tmp_path):
                known = known_by({"0"}, watcher)
                await asyncio.sleep(0.1)
        assert not lost(watcher)


def there(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def known_by(known: set[str], watcher: Watcher) -> set[str]:
    """What is there, by what a client was told, in the order in which it was."""
    for event, path in watcher.changes:
        if event == "created":
            known.add(path)
        elif event == "deleted":
            known.discard(path)
        elif event == "renamed":
            old, _, new = path.partition(" -> ")
            moved = {name for name in known if name == old or name.startswith(f"{old}/")}
            known -= moved
            known |= {new + name.removeprefix(old) for name in moved}
    return known
