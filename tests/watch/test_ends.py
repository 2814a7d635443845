"""What is left of watches that have ended: nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from kernelagent.errors import ServiceClosing
from kernelagent.files.fs.threads import LONG_THREADS, QUICK_THREADS
from kernelagent.files.service import FileService
from kernelagent.isolation.confinement import Needs
from kernelagent.sandbox import Sandbox
from kernelagent.settings import Settings
from kernelagent.watch.service import WatchService
from tests.servers import WITHOUT_KERNELS, Server, start_server
from tests.waiting import until
from tests.watch.watchers import events, leftovers, socket_to, until_on, watched, watches


async def is_as_before(server: Server, before: tuple[int, ...]) -> bool:
    now = leftovers(server.process.pid)
    are_few = all(count <= allowed for count, allowed in zip(now, before, strict=True))
    return are_few and not await watches(server)


async def test_nothing_is_left_of_a_watch(server: Server, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / "d" / str(number)).mkdir(parents=True)
    gone = tmp_path / "gone"

    async def use_all() -> None:
        async with watched(server, tmp_path):
            pass
        async with watched(server, tmp_path) as watcher:
            watcher.socket.transport.abort()
        async with events(server, tmp_path):
            pass
        gone.mkdir()
        async with events(server, gone) as ending:
            gone.rmdir()
            await until(lambda: "end" in ending.kinds)
        # Gone before it has begun.
        async with socket_to(server, str(tmp_path)) as socket:
            socket.transport.abort()
        async with socket_to(server, str(tmp_path / "none")):
            pass
        # One that is told more than it takes; another one is told as much at the same time.
        async with (
            socket_to(server, str(tmp_path), max_queue=1, close_timeout=0.1) as socket,
            watched(server, tmp_path / "d") as other,
        ):
            await until_on(server, tmp_path)
            for number in range(2000):
                (tmp_path / "d" / f"f{number}").touch()
            await until(lambda: "f1999" in {path for _, path in other.changes})
            socket.transport.abort()

    await use_all()
    await until(lambda: is_as_before(server, (1000, 1000, 0)))
    threads, *others = leftovers(server.process.pid)
    # Those in which files are looked at are made when one is needed, and stay.
    before = (threads + QUICK_THREADS + LONG_THREADS, *others)
    for _ in range(3):
        await use_all()
    await until(lambda: is_as_before(server, before))


@pytest.mark.alone
async def test_the_watch_ends_at_once(server: Server, tmp_path: Path) -> None:
    async with events(server, tmp_path):
        pass
    began = time.monotonic()
    await until(lambda: is_as_before(server, (1000, 1000, 0)))
    assert time.monotonic() - began < 1


async def test_the_server_leaves_while_a_watch_is_on(tmp_path: Path) -> None:
    running = await asyncio.to_thread(start_server, tmp_path, **WITHOUT_KERNELS)
    try:
        async with (
            events(running, tmp_path / "workspace") as watcher,
            watched(running, tmp_path / "workspace") as socket,
        ):
            code = await asyncio.to_thread(running.stop)
            await until(lambda: "end" in watcher.kinds)
            assert watcher.seen[-1]["reason"] == "closing"
            await until(lambda: socket.socket.close_code is not None)
        assert code == 0
    finally:
        running.process.kill()


NOTHING = Needs(sys.executable, [])


async def test_tasks_and_threads(settings: Settings, tmp_path: Path) -> None:
    """What cannot be seen from outside: nothing of a watch goes on in the process."""
    # The thread of the loop that everybody uses.
    await asyncio.to_thread(int)
    before = (len(asyncio.all_tasks()), threading.active_count())
    files = FileService.of(Sandbox(settings, NOTHING))
    service = WatchService(settings, files)
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

    async def leave_late() -> None:
        # The watch ends by itself, whether anybody has left or not.
        await until(lambda: len(asyncio.all_tasks()) <= most)
        task.cancel()

    # This one, and those that leave and close.
    most = before[0] + 3
    await asyncio.gather(task, service.close(), leave_late(), return_exceptions=True)
    with pytest.raises(ServiceClosing):
        async with service.watch("."):
            pass
    await files.close()
    assert (len(asyncio.all_tasks()), threading.active_count()) == before
