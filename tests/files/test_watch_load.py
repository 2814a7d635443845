"""Watches under load, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from kernelagent.errors import ServiceClosing
from kernelagent.files.paths import Roots
from kernelagent.files.watching import WatchService
from kernelagent.settings import Settings
from tests.files.watchers import (
    Watcher,
    events,
    leftovers,
    socket_to,
    until_on,
    watched,
    watches,
)
from tests.jobs.jobs import refused
from tests.runs import client_of
from tests.servers import Server, serving, start_server
from tests.waiting import until

COUNT = 10_000


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which nothing else happens."""
    root = tmp_path_factory.mktemp("quiet")
    with serving(root, KERNELAGENT_POOL_IDLE="0") as running:
        yield running


@dataclass
class Pulse:
    """How long the server took to answer small requests; seconds."""

    times: list[float] = field(default_factory=list)

    @property
    def most(self) -> float:
        """How long all but a few took: the machine has other things to do."""
        assert len(self.times) > 20
        return sorted(self.times)[int(len(self.times) * 0.98)]

    def check(self, idle: Pulse) -> None:
        assert self.most < max(0.05, 4 * idle.most), (self.most, idle.most)


@contextlib.asynccontextmanager
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
        "print(*times)\n"
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
    found.times = [float(item) for item in output.split()]


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


def lost(watcher: Watcher) -> bool:
    return any(message["type"] == "overflow" for message in watcher.seen)


async def is_as_before(server: Server, before: tuple[int, int, int]) -> bool:
    now = leftovers(server.process.pid)
    are_few = all(count <= allowed for count, allowed in zip(now, before, strict=True))
    return are_few and not await watches(server)


async def test_nothing_is_left_of_a_watch(quiet_server: Server, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / "d" / str(number)).mkdir(parents=True)
    gone = tmp_path / "gone"

    async def use_all() -> None:
        async with watched(quiet_server, tmp_path):
            pass
        async with watched(quiet_server, tmp_path) as watcher:
            watcher.socket.transport.abort()
        async with events(quiet_server, tmp_path):
            pass
        gone.mkdir()
        async with events(quiet_server, gone) as watcher:
            gone.rmdir()
            await watcher.until(lambda: "end" in watcher.kinds)
        # Gone before it has begun.
        async with socket_to(quiet_server, str(tmp_path)) as socket:
            socket.transport.abort()
        async with socket_to(quiet_server, str(tmp_path / "none")):
            pass
        # One that is told more than it takes.
        async with socket_to(quiet_server, str(tmp_path), max_queue=1) as socket:
            await until_on(quiet_server, tmp_path)
            for number in range(2000):
                (tmp_path / "d" / f"f{number}").touch()
            await asyncio.sleep(0.3)
            socket.transport.abort()

    await use_all()
    await until(lambda: is_as_before(quiet_server, (1000, 1000, 0)))
    before = leftovers(quiet_server.process.pid)
    for _ in range(3):
        await use_all()
    await until(lambda: is_as_before(quiet_server, before))


async def test_the_watch_ends_at_once(quiet_server: Server, tmp_path: Path) -> None:
    async with events(quiet_server, tmp_path):
        pass
    began = time.monotonic()
    await until(lambda: is_as_before(quiet_server, (1000, 1000, 0)))
    assert time.monotonic() - began < 1


async def test_the_server_leaves_while_a_watch_is_on(tmp_path: Path) -> None:
    running = start_server(tmp_path, KERNELAGENT_POOL_IDLE="0")
    try:
        async with (
            events(running, tmp_path / "workspace") as watcher,
            watched(running, tmp_path / "workspace") as socket,
        ):
            code = await asyncio.to_thread(running.stop)
            await watcher.until(lambda: "end" in watcher.kinds)
            assert watcher.seen[-1]["reason"] == "closing"
            await socket.until(lambda: socket.socket.close_code is not None)
        assert code == 0
    finally:
        running.process.kill()


async def test_tasks_and_threads(settings: Settings, tmp_path: Path) -> None:
    """What cannot be seen from outside: nothing of a watch goes on in the process."""
    before = (len(asyncio.all_tasks()), threading.active_count())
    service = WatchService(settings, Roots(settings.workspace, []))
    settings.workspace.mkdir()
    for number in range(300):
        (settings.workspace / str(number)).mkdir()
    async with service.watch(".") as watch:
        (settings.workspace / "a").touch()
        messages = await watch.messages(10)
        assert isinstance(messages, list)
        assert messages[0]["event"] == "created"

    async def use() -> None:
        async with service.watch("."):
            await asyncio.Event().wait()

    for delay in (0, 0.001, 0.01, 0.1):
        task = asyncio.create_task(use())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert service.watches == []
    task = asyncio.create_task(use())
    while not service.watches:
        await asyncio.sleep(0)
    await asyncio.gather(task, service.close(), _cancel_later(task), return_exceptions=True)
    with pytest.raises(ServiceClosing):
        async with service.watch("."):
            pass
    assert (len(asyncio.all_tasks()), threading.active_count()) == before


async def _cancel_later(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(0.2)
    task.cancel()


@pytest.fixture
def limited_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose user may have ten inotify watches and four instances."""
    limits = "; ".join(
        f"echo {limit} > /proc/sys/user/max_inotify_{name}"
        for name, limit in {"watches": 10, "instances": 4}.items()
    )
    probe = subprocess.run(["unshare", "-Ur", "sh", "-c", limits], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no user namespaces here")
    with serving(
        tmp_path,
        python=("unshare", "-Ur", "sh", "-c", f'{limits}; exec "$@"', "sh", sys.executable),
        KERNELAGENT_POOL_IDLE="0",
    ) as running:
        yield running


async def can_be_watched(server: Server, root: Path) -> bool:
    """Whether it can; what watches had taken is given back a moment after their end."""
    before = leftovers(server.process.pid)
    async with (
        client_of(server, Accept="text/event-stream") as client,
        client.stream("GET", "/files/watch", params={"path": str(root)}) as response,
    ):
        can = response.status_code == 200
    await until(lambda: has_no_more_instances(server, before[2]))
    return can


async def has_no_more_instances(server: Server, count: int) -> bool:
    return leftovers(server.process.pid)[2] <= count


async def test_the_limits_of_the_system(limited_server: Server) -> None:
    root = limited_server.workspace / "root"
    for number in range(20):
        (root / "many" / str(number)).mkdir(parents=True)
    (root / "few" / "1").mkdir(parents=True)
    async with client_of(limited_server, Accept="text/event-stream") as client:
        response = await client.get("/files/watch", params={"path": str(root)})
        body = await refused(response, 409, "WATCH_LIMIT")
        assert "fs.inotify.max_user_watches" in body["message"]

        await until(lambda: can_be_watched(limited_server, root / "few"))
        async with events(limited_server, root / "few") as watcher:
            for number in range(20):
                (root / "few" / str(number)).mkdir(exist_ok=True)
            await watcher.until(lambda: "end" in watcher.kinds)
            assert [item["code"] for item in watcher.seen if item["type"] == "error"] == [
                "WATCH_LIMIT"
            ]
            assert watcher.seen[-1]["reason"] == "error"

        async with contextlib.AsyncExitStack() as stack:
            while await can_be_watched(limited_server, root / "many" / "1"):
                await stack.enter_async_context(events(limited_server, root / "many" / "1"))
            params = {"path": str(root / "many" / "1")}
            await refused(await client.get("/files/watch", params=params), 409, "WATCH_LIMIT")
        await until(lambda: can_be_watched(limited_server, root / "many" / "1"))
        async with events(limited_server, root / "many" / "1") as watcher:
            (root / "many" / "1" / "a").touch()
            await watcher.until(lambda: watcher.changes)


async def test_ten_thousand_files_at_once(quiet_server: Server, tmp_path: Path) -> None:
    names = {f"many/{number}" for number in range(COUNT)}
    idle_root = tmp_path / "idle"
    idle_root.mkdir()
    async with pulse(quiet_server) as idle:
        await asyncio.to_thread(run, _CREATE, idle_root)
    shutil.rmtree(idle_root)
    memory = psutil.Process(quiet_server.process.pid).memory_info
    async with events(quiet_server, tmp_path) as watcher:
        before = memory().rss
        for event, work in {
            "created": lambda: run(_CREATE, tmp_path),
            "modified": lambda: run(_MODIFY, tmp_path),
            "renamed": lambda: (tmp_path / "many").rename(tmp_path / "moved"),
            "deleted": lambda: shutil.rmtree(tmp_path / "moved"),
        }.items():
            watcher.seen.clear()
            async with pulse(quiet_server) as found:
                await asyncio.to_thread(work)
                changes = await watcher.settle()
            found.check(idle)
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
        grown = memory().rss - before
    assert grown < 64 * 2**20


async def test_many_directories(quiet_server: Server, tmp_path: Path) -> None:
    async with pulse(quiet_server) as idle:
        for number in range(3000):
            (tmp_path / f"{number % 10}" / f"{number}").mkdir(parents=True)
            await asyncio.sleep(0)
    async with pulse(quiet_server) as found:
        async with events(quiet_server, tmp_path) as watcher:
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
            _, _, instances = leftovers(quiet_server.process.pid)
            assert instances <= 20
            shutil.rmtree(tmp_path / "1")
            await watcher.settle()
        async with events(quiet_server, tmp_path) as watcher:
            (tmp_path / "2" / "2" / "b").touch()
            assert await watcher.settle() == [("created", "2/2/b")]
    found.check(idle)


async def test_all_is_told_while_all_changes(quiet_server: Server, tmp_path: Path) -> None:
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
    async with events(quiet_server, tmp_path) as watcher:
        await asyncio.to_thread(run, program, tmp_path)
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
