"""Watches where the system permits few of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.jobs import refused
from tests.runs import client_of
from tests.servers import WITHOUT_KERNELS, Server, serving
from tests.waiting import until
from tests.watch.watchers import EventWatcher, Refused, events

# The directories above what is watched take some, too.
WATCHES, INSTANCES = 60, 4
TOO_MANY = 80


@pytest.fixture
def limited_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose user may have few inotify watches, and fewer instances."""
    limits = "; ".join(
        f"echo {limit} > /proc/sys/user/max_inotify_{name}"
        for name, limit in {"watches": WATCHES, "instances": INSTANCES}.items()
    )
    probe = subprocess.run(["unshare", "-Ur", "sh", "-c", limits], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no user namespaces here")
    python = ("unshare", "-Ur", "sh", "-c", f'{limits}; exec "$@"', "sh", sys.executable)
    with serving(tmp_path, python=python, **WITHOUT_KERNELS) as running:
        yield running


@contextlib.asynccontextmanager
async def events_once_possible(server: Server, root: Path) -> Any:
    """A watch; the system gives back what others had taken a moment after their end."""
    async with contextlib.AsyncExitStack() as stack:

        async def attempt() -> EventWatcher | None:
            try:
                return await stack.enter_async_context(events(server, root))
            except Refused as error:
                await refused(error.response, 409, "WATCH_LIMIT")
                return None

        yield await until(attempt)


async def test_the_limits_of_the_system(limited_server: Server) -> None:
    root = limited_server.workspace / "root"
    for number in range(TOO_MANY):
        (root / "many" / str(number)).mkdir(parents=True)
    (root / "few" / "1").mkdir(parents=True)
    async with client_of(limited_server, Accept="text/event-stream") as client:
        response = await client.get("/files/watch", params={"path": str(root)})
        body = await refused(response, 409, "WATCH_LIMIT")
        assert "fs.inotify.max_user_watches" in body["message"]

        async with events_once_possible(limited_server, root / "few") as watcher:
            for number in range(TOO_MANY):
                (root / "few" / str(number)).mkdir(exist_ok=True)
            await until(lambda: "end" in watcher.kinds)
            assert [item["code"] for item in watcher.seen if item["type"] == "error"] == [
                "WATCH_LIMIT"
            ]
            assert watcher.seen[-1]["reason"] == "error"

        single = root / "many" / "1"
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(INSTANCES):
                await stack.enter_async_context(events_once_possible(limited_server, single))
            params = {"path": str(single)}
            await refused(await client.get("/files/watch", params=params), 409, "WATCH_LIMIT")
        async with events_once_possible(limited_server, single) as watcher:
            (single / "a").touch()
            await until(lambda: watcher.changes)
