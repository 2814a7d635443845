"""Watches on WebSockets, as published clients use them, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers import Server
from tests.waiting import PATIENCE, until
from tests.watch.watchers import (
    SocketWatcher,
    reading,
    socket_to,
    until_on,
    watched,
    watched_inodes,
    watches,
)


async def closed(server: Server, *sent: str | bytes) -> tuple[int, str]:
    """Code and reason of the close after messages."""
    async with socket_to(server, None) as socket:
        for message in sent:
            await socket.send(message)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def asked(path: object) -> str:
    return json.dumps({"action": "watch", "path": path})


@pytest.mark.alone
async def test_the_fields_of_a_change(server: Server, tmp_path: Path) -> None:
    async with watched(server, tmp_path) as watcher:
        began = time.monotonic()
        (tmp_path / "a.txt").write_text("1")
        await until(lambda: watcher.seen)
        assert time.monotonic() - began < 2
    (change,) = watcher.seen
    assert set(change) == {"type", "path", "event", "is_directory", "timestamp"}
    assert (change["type"], change["event"]) == ("change", "created")
    assert change["path"] == str(tmp_path / "a.txt")
    assert change["is_directory"] is False
    assert change["timestamp"].endswith("Z")
    assert datetime.fromisoformat(change["timestamp"]).tzinfo is not None


async def test_one_change_for_each_thing_done(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    async with watched(server, tmp_path) as watcher:
        with file.open("w") as stream:
            for number in range(100):
                stream.write(f"{number}\n")
                stream.flush()
        assert await watcher.settle() == [("created", "a.txt")]
        file.write_text("more")
        assert await watcher.settle() == [("modified", "a.txt")]
        file.chmod(0o600)
        assert await watcher.settle() == [("modified", "a.txt")]
        file.rename(tmp_path / "b.txt")
        assert await watcher.settle() == [("renamed", "a.txt -> b.txt")]
        (tmp_path / "b.txt").unlink()
        assert await watcher.settle() == [("deleted", "b.txt")]
        (tmp_path / "gone").touch()
        (tmp_path / "gone").unlink()
        assert await watcher.settle() == []


async def test_directories_at_any_depth(server: Server, tmp_path: Path) -> None:
    (tmp_path / "old" / "deep").mkdir(parents=True)
    async with watched(server, tmp_path) as watcher:
        (tmp_path / "old" / "deep" / "a").touch()
        assert await watcher.settle() == [("created", "old/deep/a")]
        (tmp_path / "x" / "y" / "z").mkdir(parents=True)
        (tmp_path / "x" / "y" / "z" / "a").write_text("1")
        assert await watcher.settle() == [
            ("created", "x"),
            ("created", "x/y"),
            ("created", "x/y/z"),
            ("created", "x/y/z/a"),
        ]
        (tmp_path / "x" / "y" / "z" / "a").write_text("2")
        assert await watcher.settle() == [("modified", "x/y/z/a")]
        (tmp_path / "x").rename(tmp_path / "old" / "x")
        assert await watcher.settle() == [("renamed", "x -> old/x")]
        (tmp_path / "old" / "x" / "y" / "z" / "a").write_text("3")
        assert await watcher.settle() == [("modified", "old/x/y/z/a")]
        shutil.rmtree(tmp_path / "old" / "x")
        assert await watcher.settle() == [
            ("deleted", "old/x/y/z/a"),
            ("deleted", "old/x/y/z"),
            ("deleted", "old/x/y"),
            ("deleted", "old/x"),
        ]


async def test_atomic_writes_and_swaps(server: Server, tmp_path: Path) -> None:
    file, draft = tmp_path / "a", tmp_path / "a.tmp"
    file.write_text("old")
    async with watched(server, tmp_path) as watcher:
        draft.write_text("new")
        draft.rename(file)
        assert await watcher.settle() == [("modified", "a")]
        (tmp_path / "b").write_text("b")
        await watcher.settle()
        file.rename(tmp_path / "t")
        (tmp_path / "b").rename(file)
        (tmp_path / "t").rename(tmp_path / "b")
        assert await watcher.settle() == [
            ("renamed", "a -> t"),
            ("renamed", "b -> a"),
            ("renamed", "t -> b"),
        ]


async def test_moved_in_and_out(server: Server, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "d" / "a").touch()
    root.mkdir()
    async with watched(server, root) as watcher:
        (outside / "d").rename(root / "d")
        assert await watcher.settle() == [("created", "d"), ("created", "d/a")]
        (root / "d" / "b").touch()
        assert await watcher.settle() == [("created", "d/b")]
        (root / "d").rename(outside / "d")
        assert await watcher.settle() == [
            ("deleted", "d/b"),
            ("deleted", "d/a"),
            ("deleted", "d"),
        ]
        (outside / "d" / "c").touch()
        assert await watcher.settle() == []


async def test_an_inode_used_again_is_no_rename(server: Server, tmp_path: Path) -> None:
    async with watched(server, tmp_path) as watcher:
        for number in range(10):
            (tmp_path / f"a{number}").touch()
            (tmp_path / f"d{number}").mkdir()
        await watcher.settle()
        for number in range(10):
            (tmp_path / f"a{number}").unlink()
            (tmp_path / f"b{number}").touch()
            (tmp_path / f"d{number}").rmdir()
            (tmp_path / f"e{number}").mkdir()
        changes = await watcher.settle()
    assert {event for event, _ in changes} == {"created", "deleted"}
    assert len(changes) == 40


async def test_links_lead_nowhere(server: Server, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    root.mkdir()
    (root / "old").symlink_to(outside)
    async with watched(server, root) as watcher:
        (root / "new").symlink_to(outside / "d")
        (root / "sub").mkdir()
        assert await watcher.settle() == [("created", "new"), ("created", "sub")]
        (outside / "a").touch()
        (outside / "d" / "a").touch()
        assert await watcher.settle() == []
        # A directory that is watched, and then is a link.
        (root / "sub").rename(tmp_path / "sub")
        (root / "sub").symlink_to(outside / "d")
        await watcher.settle()
        (outside / "d" / "b").touch()
        (tmp_path / "sub" / "c").touch()
        assert await watcher.settle() == []
        inodes = {path.stat().st_ino for path in (outside, outside / "d")}
        assert inodes.isdisjoint(watched_inodes(server.process.pid))
        (root / "old").unlink()
        assert await watcher.settle() == [("deleted", "old")]


async def test_a_link_to_what_is_watched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    async with watched(server, tmp_path / "link") as watcher:
        (tmp_path / "real" / "a").touch()
        assert await watcher.settle() == [("created", "a")]


async def test_a_name_that_is_no_utf8(server: Server, tmp_path: Path) -> None:
    async with watched(server, tmp_path) as watcher:
        (tmp_path / os.fsdecode(b"caf\xe9")).touch()
        await until(lambda: ("created", "caf\uefe9") in watcher.changes)
        (tmp_path / "naïve").touch()
        await until(lambda: ("created", "naïve") in watcher.changes)


@pytest.mark.parametrize(
    ("path", "inside"), [("d\uefff", "sub/a"), ("d\uefff", "f\uefff"), ("d\uefff/f\uefff", "")]
)
async def test_what_is_watched_has_a_name_that_is_no_utf8(
    server: Server, tmp_path: Path, path: str, inside: str
) -> None:
    real = tmp_path / os.fsdecode(b"d\xff")
    (real / "sub").mkdir(parents=True)
    file = real / os.fsdecode(b"f\xff")
    file.touch()
    async with socket_to(server, f"{tmp_path}/{path}") as socket:
        watcher = SocketWatcher(tmp_path, socket)
        async with reading(watcher):
            await until_on(server, real)
            assert await watches(server) == [f"{tmp_path}/{path}"]
            (real / "sub" / "a").touch()
            file.write_text("1")
            expected = str(tmp_path / path / inside)
            await until(lambda: expected in {change["path"] for change in watcher.seen})


async def test_a_single_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1")
    async with watched(server, file) as watcher:
        watcher.root = tmp_path
        (tmp_path / "other").touch()
        file.write_text("2")
        await until(lambda: watcher.seen)
        assert watcher.take() == [("modified", "a.txt")]
        # As one kind of editor saves, then another.
        (tmp_path / "a.tmp").write_text("3")
        (tmp_path / "a.tmp").rename(file)
        await until(lambda: watcher.seen)
        assert watcher.take() == [("modified", "a.txt")]
        file.rename(tmp_path / "a.txt~")
        file.write_text("4")
        await until(lambda: watcher.seen)
        assert watcher.take() == [("modified", "a.txt")]
        file.unlink()
        await until(lambda: watcher.seen)
        assert watcher.take() == [("deleted", "a.txt")]
        file.write_text("5")
        await until(lambda: watcher.seen)
        assert watcher.take() == [("created", "a.txt")]


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
async def test_what_is_watched_goes(server: Server, tmp_path: Path, how: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").touch()
    async with socket_to(server, str(root)) as socket:
        await until_on(server, root)
        if how == "removed":
            shutil.rmtree(root)
        else:
            root.rename(tmp_path / "elsewhere")
        if how == "replaced":
            root.mkdir()
        seen = []
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    seen.append(json.loads(await socket.recv()))
    assert (seen[-1]["event"], seen[-1]["path"]) == ("deleted", str(root))
    assert seen[-1]["is_directory"] is True
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1000, "the path is gone")
    await until(lambda: _has_no_watch(server, root))


async def _has_no_watch(server: Server, root: Path) -> bool:
    return str(root) not in await watches(server)


async def test_what_cannot_be_watched(server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc")
    state = server.workspace.parent / "state"
    for path, code in {
        str(tmp_path / "none"): "FILE_NOT_FOUND",
        "/etc": "PATH_NOT_ALLOWED",
        "/": "PATH_NOT_ALLOWED",
        f"{tmp_path}/{'../' * 20}etc": "PATH_NOT_ALLOWED",
        str(tmp_path / "link"): "PATH_NOT_ALLOWED",
        str(state): "PATH_NOT_ALLOWED",
        str(tmp_path / "pipe"): "INVALID_PATH",
        "a\0b": "INVALID_PATH",
        "": "INVALID_PATH",
        "/tmp/" + "x" * 5000: "INVALID_PATH",
        "/tmp/not found/ümlaut": "FILE_NOT_FOUND",
    }.items():
        close, reason = await closed(server, asked(path))
        assert (close, reason.partition(":")[0]) == (1008, code), path
    close, reason = await closed(server, asked(str(tmp_path / "none")))
    assert reason.startswith("FILE_NOT_FOUND: no such file or directory: /")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ("[]", "INVALID_JSON"),
        (b"\xff", "INVALID_JSON"),
        ('{"action":"sing"}', "INVALID_REQUEST"),
        ('{"action":"watch","path":7}', "INVALID_REQUEST"),
    ],
)
async def test_messages_that_cannot_be_used(
    server: Server, message: str | bytes, code: str
) -> None:
    close, reason = await closed(server, message)
    assert (close, reason.partition(":")[0]) == (1008, code)


async def test_the_default_is_the_workspace_and_there_is_one_watch(server: Server) -> None:
    for message in ('{"action":"watch"}', '{"action":"watch","path":null}', asked(".")):
        async with socket_to(server, None) as socket:
            await socket.send(message)
            watcher = SocketWatcher(server.workspace, socket)
            async with reading(watcher):
                await until_on(server, server.workspace)
                await watcher.settle()
            await socket.send('{"type":"hello"}')
            await socket.send(asked("."))
            with pytest.raises(ConnectionClosed) as caught:
                async with asyncio.timeout(PATIENCE):
                    while True:
                        await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


async def test_several_watches(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with (
        watched(server, tmp_path) as all_of_it,
        watched(server, tmp_path / "a") as a,
        watched(server, tmp_path / "a") as again,
    ):
        # The first is of what is below, too.
        await until_on(server, tmp_path / "a", 3)
        assert sorted(await watches(server)) == [
            str(tmp_path),
            str(tmp_path / "a"),
            str(tmp_path / "a"),
        ]
        (tmp_path / "b").touch()
        (tmp_path / "a" / "c").touch()
        # In the order in which they happened.
        assert await all_of_it.settle() == [("created", "b"), ("created", "a/c")]
        for watcher in (a, again):
            assert await watcher.settle() == [("created", "c")]


async def test_a_token_for_something_else(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with socket_to(server, None, additional_headers={"Authorization": "Bearer x"}):
            pass
    assert caught.value.response.status_code == 401
