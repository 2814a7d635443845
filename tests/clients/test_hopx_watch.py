"""The published hopx clients' watches of files, unmodified: Python, both ways, and JavaScript."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hopx_ai import AsyncSandbox, Sandbox

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.files.watchers import until_on, watches
from tests.servers import Server
from tests.waiting import until

_SCRIPT = Path(__file__).parent / "javascript" / "watch.mjs"


async def nothing_is_watched(server: Server) -> bool:
    return not await watches(server)


async def collect(watching: Any, count: int) -> list[tuple[str, str]]:
    """Event and path of the first messages, as the cookbook reads them."""
    seen = []
    async for message in watching:
        seen.append((message["event"], message["path"]))
        if len(seen) == count:
            break
    await watching.aclose()
    return seen


async def check(files: Any, server: Server, root: Path) -> None:
    """One client's way of watching."""
    task = asyncio.create_task(collect(files.watch(str(root)), 4))
    await until_on(server, root)
    (root / "a.txt").write_text("1")
    await asyncio.sleep(0.5)
    (root / "a.txt").write_text("2")
    await asyncio.sleep(0.5)
    (root / "a.txt").rename(root / "b.txt")
    await asyncio.sleep(0.5)
    (root / "b.txt").unlink()
    assert await asyncio.wait_for(task, 30) == [
        ("created", str(root / "a.txt")),
        ("modified", str(root / "a.txt")),
        ("renamed", str(root / "b.txt")),
        ("deleted", str(root / "b.txt")),
    ]
    await until(lambda: nothing_is_watched(server))

    task = asyncio.create_task(collect(files.watch(str(root)), 1001))
    await until_on(server, root)
    (root / "many").mkdir()
    for number in range(1000):
        (root / "many" / str(number)).touch()
    seen = await asyncio.wait_for(task, 60)
    assert {path for _, path in seen} == {
        str(root / "many"),
        *(str(root / "many" / str(number)) for number in range(1000)),
    }
    # What cannot be watched ends the loop.
    assert await asyncio.wait_for(collect(files.watch("/etc"), 1), 30) == []
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
            "node",
            str(_SCRIPT),
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
            output, _ = await asyncio.wait_for(node.communicate(b"go\n"), 60)
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()
    assert node.returncode == 0
    got = json.loads(output.splitlines()[-1])
    # It loses messages that come in one read, as they do when it is late to read.
    told = [(item["event"], item["path"]) for item in got["many"]]
    names = [*map(str, range(20)), "last"]
    assert told[-1] == ("created", str(tmp_path / "last"))
    assert len(set(told)) == len(told) > 5
    assert set(told) <= {("created", str(tmp_path / name)) for name in names}
    assert all(item["type"] == "change" and item["timestamp"] for item in got["many"])
    assert [(item["event"], item["path"]) for item in got["two"]] == [
        ("renamed", str(tmp_path / "one")),
        ("deleted", str(tmp_path / "2")),
    ]
    await until(lambda: nothing_is_watched(server))
