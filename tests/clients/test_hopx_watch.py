"""The published hopx clients' watches of files, unmodified: Python, both ways, and JavaScript."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hopx_ai import AsyncSandbox, Sandbox

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.installed import javascript_client
from tests.servers import Server
from tests.waiting import PATIENCE, until
from tests.watch.watchers import until_on, watches

_SCRIPT = "watch.mjs"


async def nothing_is_watched(server: Server) -> bool:
    return not await watches(server)


@asynccontextmanager
async def reading(watch: Any, paths: int) -> AsyncIterator[list[tuple[str, str]]]:
    """Event and path of the messages, as the cookbook reads them.

    Waits in the end until there were so many different paths, or until the watch has ended.
    """
    seen: list[tuple[str, str]] = []

    async def read() -> None:
        async for message in watch:
            seen.append((message["event"], message["path"]))
            if len({path for _, path in seen}) == paths:
                break
        await watch.aclose()

    task = asyncio.create_task(read())
    try:
        yield seen
        await asyncio.wait_for(task, PATIENCE)
    finally:
        task.cancel()


async def check(files: Any, server: Server, folder: Path) -> None:
    """One client's way of watching."""
    root, staged = folder / "watched", folder / "staged"
    root.mkdir()
    # Whole at once: a change that is made in two steps may be told as two.
    staged.write_text("1")
    async with reading(files.watch(str(root)), 3) as seen:
        await until_on(server, root)
        staged.rename(root / "a.txt")
        await until(lambda: len(seen) == 1)
        with (root / "a.txt").open("a") as file:
            file.write("2")
        await until(lambda: len(seen) == 2)
        (root / "a.txt").rename(root / "b.txt")
        await until(lambda: len(seen) == 3)
        (root / "b.txt").unlink()
        await until(lambda: len(seen) == 4)
        (root / "c.txt").touch()
    assert seen == [
        ("created", str(root / "a.txt")),
        ("modified", str(root / "a.txt")),
        ("renamed", str(root / "b.txt")),
        ("deleted", str(root / "b.txt")),
        ("created", str(root / "c.txt")),
    ]
    await until(lambda: nothing_is_watched(server))

    async with reading(files.watch(str(root)), 1001) as seen:
        await until_on(server, root)
        (root / "many").mkdir()
        for number in range(1000):
            (root / "many" / str(number)).touch()
    assert {path for _, path in seen} == {
        str(root / "many"),
        *(str(root / "many" / str(number)) for number in range(1000)),
    }
    # What cannot be watched ends the loop.
    async with reading(files.watch("/etc"), 1) as seen:
        pass
    assert seen == []
    await until(lambda: nothing_is_watched(server))


async def test_the_synchronous_client(server: Server, tmp_path: Path) -> None:
    with control_plane(server) as base_url:
        sandbox: Any = await asyncio.to_thread(
            Sandbox.connect, SANDBOX_ID, api_key="any", base_url=base_url
        )
        try:
            await check(sandbox.files, server, tmp_path)
        finally:
            sandbox._client.close()


async def test_the_asynchronous_client(server: Server, tmp_path: Path) -> None:
    with control_plane(server) as base_url:
        sandbox: Any = await AsyncSandbox.connect(SANDBOX_ID, api_key="any", base_url=base_url)
        try:
            await check(sandbox.files, server, tmp_path)
        finally:
            await sandbox._agent_client.close()
            await sandbox._client.close()


async def test_the_javascript_client(server: Server, tmp_path: Path) -> None:
    with control_plane(server) as base_url:
        node = await asyncio.create_subprocess_exec(
            *javascript_client(_SCRIPT),
            base_url,
            str(tmp_path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert node.stdout is not None
        assert node.stdin is not None
        try:
            assert await node.stdout.readline() == b"watching\n"
            await until_on(server, tmp_path)
            node.stdin.write(b"go\n")
            assert await node.stdout.readline() == b"watching\n"
            # The client leaves the first one on.
            await until_on(server, tmp_path, 2)
            output, _ = await asyncio.wait_for(node.communicate(b"go\n"), PATIENCE)
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()
    assert node.returncode == 0
    got = json.loads(output.splitlines()[-1])
    # It loses messages that come in one read, as they do when it is late to read.
    told = [(item["event"], item["path"]) for item in got["many"]]
    names = [*map(str, range(20)), *(f"last {number}" for number in range(100))]
    assert told[-1][1].startswith(str(tmp_path / "last"))
    assert len(set(told)) == len(told) > 5
    assert set(told) <= {("created", str(tmp_path / name)) for name in names}
    assert all(item["type"] == "change" and item["timestamp"] for item in got["many"])
    assert [(item["event"], item["path"]) for item in got["two"]] == [
        ("renamed", str(tmp_path / "one")),
        ("deleted", str(tmp_path / "2")),
    ]
    await until(lambda: nothing_is_watched(server))
