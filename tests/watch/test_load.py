"""Watches of trees in which much happens at once."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from tests.files.pulse import pulse
from tests.servers import Server
from tests.waiting import until
from tests.watch.watchers import events, leftovers

COUNT = 10_000
# Seconds that the server may work before it answers others.
HELD_UP = 0.05


def run(program: str, root: Path) -> None:
    """Run a program in another process, as those are who change files."""
    subprocess.run([sys.executable, "-c", program, str(root)], check=True)


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


async def test_ten_thousand_files_at_once(server: Server, tmp_path: Path) -> None:
    names = {f"many/{number}" for number in range(COUNT)}
    memory = psutil.Process(server.process.pid).memory_info
    async with events(server, tmp_path) as watcher:
        before = memory().rss
        for event, work in {
            "created": lambda: run(_CREATE, tmp_path),
            "modified": lambda: run(_MODIFY, tmp_path),
            "renamed": lambda: (tmp_path / "many").rename(tmp_path / "moved"),
            "deleted": lambda: shutil.rmtree(tmp_path / "moved"),
        }.items():
            watcher.seen.clear()
            async with pulse(server) as found:
                await asyncio.to_thread(work)
                changes = await watcher.settle()
            assert found.most < HELD_UP, event
            assert "overflow" not in watcher.kinds
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
        grown = memory().rss - before
    assert grown < 64 * 2**20


async def test_many_directories(server: Server, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number % 10}" / f"{number}").mkdir(parents=True)
    async with pulse(server) as found:
        async with events(server, tmp_path) as watcher:
            await watcher.settle()
            (tmp_path / "new").mkdir()
            for number in range(3000):
                (tmp_path / f"{number % 10}" / f"{number}" / "a").touch()
                (tmp_path / "new" / f"{number}").mkdir()
            changes = await watcher.settle()
            assert len(changes) == 6001
            assert set(changes) == {
                ("created", "new"),
                *(("created", f"new/{number}") for number in range(3000)),
                *(("created", f"{number % 10}/{number}/a") for number in range(3000)),
            }
            _, _, instances = leftovers(server.process.pid)
            assert instances <= 20
            shutil.rmtree(tmp_path / "1")
            await watcher.settle()
        async with events(server, tmp_path) as watcher:
            (tmp_path / "2" / "2" / "b").touch()
            assert await watcher.settle() == [("created", "2/2/b")]
    assert found.most < HELD_UP


async def test_all_is_told_while_all_changes(server: Server, tmp_path: Path) -> None:
    """What a client has been told is what is there, however it came about."""
    program = """
import os, random, shutil, sys
root, seed = sys.argv[1], 7
rng = random.Random(seed)
os.chdir(root)
for number in range(6000):
    names = [f'{a}/' for a in range(5)]
    directories = ['', *names, *(f'{name}{b}/' for name in names for b in range(3))]
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
    async with events(server, tmp_path) as watcher:
        await asyncio.to_thread(run, program, tmp_path)
        known = {"0"}

        def is_known() -> bool:
            learn(known, watcher.take())
            return known == there(tmp_path)

        # What was missed is found when the tree is looked through, after a while of silence.
        await until(is_known)
        assert "overflow" not in watcher.kinds


def there(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def learn(known: set[str], changes: list[tuple[str, str]]) -> None:
    """What is there by what a client is told, in the order in which it is."""
    for event, path in changes:
        if event == "created":
            known.add(path)
        elif event == "deleted":
            known.discard(path)
        elif event == "renamed":
            old, _, new = path.partition(" -> ")
            moved = {name for name in known if name == old or name.startswith(f"{old}/")}
            known -= moved
            known |= {new + name.removeprefix(old) for name in moved}
