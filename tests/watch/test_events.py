"""Watches over HTTP: server-sent events, NDJSON, the list of watches."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelagent.watch.changes import Change, Event
from tests.jobs.jobs import refused
from tests.runs import NDJSON, client_of
from tests.servers import Server, Service, serving_in_process
from tests.waiting import until
from tests.watch.replays import Client, Facts, play, there
from tests.watch.watchers import EventWatcher, events, reading, watched, watches


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with little patience and room."""
    with serving_in_process(
        tmp_path_factory.mktemp("strict"),
        keepalive=0.2,
        max_watches=2,
        watch_changes=100,
        watch_names=50,
        pool_idle=0,
        fork_server=False,
    ) as running:
        yield running


async def test_events_in_order_with_ids(server: Server, tmp_path: Path) -> None:
    async with events(server, tmp_path) as watcher:
        assert watcher.response.headers["content-type"].startswith("text/event-stream")
        (tmp_path / "a").write_text("1")
        assert await watcher.settle() == [("created", "a")]
        (tmp_path / "a").rename(tmp_path / "b")
        assert await watcher.settle() == [("renamed", "a -> b")]
        assert watcher.ids == [str(number + 1) for number in range(len(watcher.ids))]
        assert watcher.kinds[0] == "started"
        assert set(watcher.kinds[1:]) == {"change"}


async def test_the_first_event(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, is_directory in ((tmp_path, True), (tmp_path / "file", False)):
        async with events(server, path) as watcher:
            pass
        started = watcher.seen[0]
        assert started["type"] == "started"
        assert started["watch_id"].startswith("watch_")
        assert (started["path"], started["is_directory"]) == (str(path), is_directory)


async def test_keepalives(strict_server: Service, tmp_path: Path) -> None:
    async with events(strict_server, tmp_path) as watcher:
        await until(lambda: watcher.lines.count(": keepalive") >= 2)
        (tmp_path / "a").touch()
        await until(lambda: ("created", "a") in watcher.changes)


async def test_lines_of_json(strict_server: Service, tmp_path: Path) -> None:
    params = {"path": str(tmp_path)}
    async with (
        client_of(strict_server, Accept=NDJSON) as client,
        client.stream("GET", "/files/watch", params=params) as response,
    ):
        assert response.headers["content-type"].startswith(NDJSON)
        seen = []
        async for line in response.aiter_lines():
            seen.append(json.loads(line)["type"])
            if seen[-1] == "started":
                (tmp_path / "a").touch()
            if {"change", "keepalive"} <= set(seen):
                break
    assert seen[0] == "started"


@pytest.mark.parametrize("sent", ["%FF", "%EE%BF%BF"])
async def test_what_is_watched_has_a_name_that_is_no_utf8(
    server: Server, tmp_path: Path, sent: str
) -> None:
    real = tmp_path / os.fsdecode(b"d\xff")
    (real / "sub").mkdir(parents=True)
    shown = f"{tmp_path}/d\uefff"
    async with (
        client_of(server, Accept="text/event-stream") as client,
        client.stream("GET", f"/files/watch?path={tmp_path}/d{sent}") as response,
    ):
        assert response.status_code == 200, await response.aread()
        watcher = EventWatcher(Path(shown), response)
        async with reading(watcher):
            await until(lambda: watcher.seen)
            assert watcher.seen[0]["path"] == shown
            assert await watches(server) == [shown]
            (real / "a").touch()
            (real / "sub" / "b").touch()
            await until(lambda: len(watcher.changes) == 2)
            assert set(watcher.changes) == {("created", "a"), ("created", "sub/b")}
            (real / "sub" / os.fsdecode(b"\xfe")).touch()
            await until(lambda: ("created", "sub/\ueffe") in watcher.changes)
            real.rename(tmp_path / "gone")
            await until(lambda: "end" in watcher.kinds)
    assert watcher.seen[-2]["path"] == shown


async def test_an_error_tells_a_name_that_is_no_utf8(server: Server, tmp_path: Path) -> None:
    async with client_of(server, Accept="text/event-stream") as client:
        response = await client.get(f"/files/watch?path={tmp_path}/%FF")
        body = await refused(response, 404, "FILE_NOT_FOUND")
        assert body["details"]["path"] == f"{tmp_path}/\uefff"
        response = await client.get("/files/watch?path=/etc/%FF")
        body = await refused(response, 403, "PATH_NOT_ALLOWED")
        assert body["details"]["path"] == "/etc/\uefff"


async def test_the_end(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    async with events(server, root) as watcher:
        shutil.rmtree(root)
        await until(lambda: "end" in watcher.kinds)
    assert watcher.seen[-2]["event"] == "deleted"
    assert watcher.seen[-2]["path"] == str(root)
    assert watcher.seen[-1]["reason"] == "gone"
    assert str(root) not in await watches(server)


async def test_too_much_at_once_is_told(strict_server: Service, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    ready = tmp_path / "ready"
    ready.mkdir()
    for number in range(1000):
        (ready / str(number)).touch()
    async with events(strict_server, root) as watcher:
        # All of it is found in one look.
        ready.rename(root / "d")
        await until(lambda: "overflow" in watcher.kinds)
        overflow = next(item for item in watcher.seen if item["type"] == "overflow")
        assert overflow["path"] == str(root)
        assert overflow["message"]
        await until(
            lambda: sum(item.get("lost", 0) for item in watcher.seen) + len(watcher.changes) == 1001
        )
        watcher.seen.clear()
        (root / "after").touch()
        assert await watcher.settle() == [("created", "after")]


async def test_too_much_at_once_on_a_socket(strict_server: Service, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    ready = tmp_path / "ready"
    ready.mkdir()
    for number in range(1000):
        (ready / str(number)).touch()
    async with watched(strict_server, root) as watcher:
        ready.rename(root / "d")
        await until(lambda: ("modified", ".") in watcher.changes)
        assert {message["type"] for message in watcher.seen} == {"change"}
        assert len(watcher.changes) < 1001


async def test_more_names_than_are_remembered(strict_server: Service, tmp_path: Path) -> None:
    for number in range(80):
        (tmp_path / f"a{number}").touch()
    async with events(strict_server, tmp_path) as watcher:
        (tmp_path / "new").touch()
        assert await watcher.settle() == [("created", "new")]
        (tmp_path / "new").rename(tmp_path / "newer")
        assert await watcher.settle() == [("renamed", "new -> newer")]
        (tmp_path / "newer").unlink()
        assert await watcher.settle() == [("deleted", "newer")]
        # Whether it was there is not known.
        (tmp_path / "newest").write_text("1")
        (tmp_path / "newest").rename(tmp_path / "a79")
        assert await watcher.settle() == [("created", "a79")]


async def test_who_connects_again_is_told_that_changes_may_be_missing(
    server: Server, tmp_path: Path
) -> None:
    async with events(server, tmp_path, **{"Last-Event-ID": "7"}) as watcher:
        await until(lambda: len(watcher.seen) == 2)
    assert watcher.kinds == ["started", "overflow"]
    assert watcher.seen[1]["lost"] == 0


async def test_no_more_than_the_settings_allow(strict_server: Service, tmp_path: Path) -> None:
    headers = {"Accept": "text/event-stream"}
    async with client_of(strict_server) as client:
        async with events(strict_server, tmp_path), watched(strict_server, tmp_path):
            response = await client.get("/files/watch", headers=headers)
            body = await refused(response, 409, "WATCH_LIMIT")
            assert body["details"] == {"limit": 2}
            listed = (await client.get("/files/watch")).json()
            assert (listed["count"], listed["limit"]) == (2, 2)

        async def none_left() -> bool:
            return not await watches(strict_server)

        await until(none_left)
        # Refusals take no room.
        for _ in range(3):
            params = {"path": str(tmp_path / "none")}
            response = await client.get("/files/watch", params=params, headers=headers)
            body = await refused(response, 404, "FILE_NOT_FOUND")
            assert body["path"] == str(tmp_path / "none")
        async with events(strict_server, tmp_path), events(strict_server, tmp_path):
            assert len(await watches(strict_server)) == 2


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/etc", 403, "PATH_NOT_ALLOWED"),
        ("/tmp/none/at/all", 404, "FILE_NOT_FOUND"),
        ("", 400, "INVALID_PATH"),
        ("a\0b", 400, "INVALID_PATH"),
    ],
)
async def test_what_cannot_be_watched(server: Server, path: str, status: int, code: str) -> None:
    async with client_of(server, Accept="text/event-stream") as client:
        response = await client.get("/files/watch", params={"path": path})
        await refused(response, status, code)


@pytest.mark.parametrize("seed", range(3))
async def test_a_replay_ends_where_the_tree_does(server: Server, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    play(rng, tmp_path, 40)
    client = Client(there(tmp_path))
    async with events(server, tmp_path) as watcher:
        watcher.seen.clear()
        for _ in range(6):
            client.doubtful = play(rng, tmp_path, rng.choice((4, 8, 30)))
            facts = there(tmp_path)

            def is_known(facts: Facts = facts) -> bool:
                client.take_all(_changes(watcher))
                return client.knows(facts)

            await until(is_known)


def _changes(watcher: EventWatcher) -> list[Change]:
    """What has come since the last time."""
    root = f"{watcher.root}/"
    taken, watcher.seen[:] = list(watcher.seen), []
    return [
        Change(
            Event(message["event"]),
            message["path"].removeprefix(root),
            message["is_directory"],
            message["old_path"].removeprefix(root) if "old_path" in message else None,
        )
        for message in taken
    ]
