"""Hostile paths, and names that change while they are used: nothing outside is read or written."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from kernelagent.app import create_app
from kernelagent.settings import load_settings
from tests.files.hostile import (
    SECRET_CONTENT,
    WAYS,
    application,
    attack,
    client_of,
    move_directory,
    set_traps,
    swap_names,
)
from tests.servers import SECRET


@pytest.fixture
def root(tmp_path: Path) -> Path:
    set_traps(tmp_path)
    return tmp_path


@pytest.fixture(params=WAYS)
def app(request: pytest.FixtureRequest, root: Path, runtime_dir: Path) -> Iterator[FastAPI]:
    with application(root, runtime_dir, request.param) as app:
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


async def test_ten_thousand_hostile_paths(client: httpx.AsyncClient, root: Path) -> None:
    """Some of them: `make prove hostile_paths` sends ten thousand."""
    rng = random.Random(11)  # noqa: S311 - the same each time
    statuses = await attack(client, root, rng, 500)
    # It was worth something: much was refused, and much was not.
    assert statuses[403] > 50
    assert statuses[200] > 50


async def test_names_that_change_while_they_are_used(client: httpx.AsyncClient, root: Path) -> None:
    swaps, succeeded = await swap_names(client, root, 40)
    assert swaps > 100
    assert succeeded > 100


async def test_a_moved_directory_takes_nobody_along(client: httpx.AsyncClient, root: Path) -> None:
    """Between two roots and out of them: `..` does not lead where the directory has gone."""
    await move_directory(client, root, 300)


@pytest.mark.skipif(os.geteuid() != 0, reason="only another user's hard links are refused")
async def test_hard_links_to_what_is_outside(client: httpx.AsyncClient, root: Path) -> None:
    for route in ("read", "download"):
        answer = await client.get(f"/files/{route}?path=hard")
        assert (answer.status_code, answer.json()["code"]) == (403, "PATH_NOT_ALLOWED")
    answer = await client.get("/files/search?path=.&pattern=SECRET")
    assert answer.json()["matches"] == []
    body = {"source": "hard", "destination": "copy"}
    assert (await client.post("/files/copy", json=body)).status_code == 400
    # Writing makes another file, and leaves the other name alone.
    await client.post("/files/write", json={"path": "hard", "content": "W"})
    assert (root / "secret").read_bytes() == SECRET_CONTENT
    assert (await client.get("/files/read?path=hard")).json()["content"] == "W"


async def test_the_state_beneath_a_root(tmp_path: Path, runtime_dir: Path) -> None:
    state = tmp_path / "home" / ".local" / "state"
    state.mkdir(parents=True)
    (state / "jwt-secret").write_bytes(SECRET_CONTENT)
    settings = load_settings(
        workspace=tmp_path / "home" / "workspace",
        state_dir=state,
        runtime_dir=runtime_dir,
        jwt_secret=SECRET,
        file_roots=(tmp_path / "home",),
        isolation="off",
        pool_idle=0,
        fork_server=False,
    )
    (tmp_path / "home" / "workspace").mkdir()
    async with client_of(create_app(settings)) as client:
        home = tmp_path / "home"
        for path in (state, state / "jwt-secret", state / "new", state / "a" / "b"):
            for method, url, body in (
                ("GET", f"/files/read?path={path}", None),
                ("GET", f"/files/list?path={path}", None),
                ("DELETE", f"/files/remove?path={path}", None),
                ("POST", "/files/write", {"path": str(path), "content": ""}),
                ("POST", "/files/mkdir", {"path": str(path)}),
                ("POST", "/files/move", {"source": str(path), "destination": "x"}),
                ("POST", "/files/copy", {"source": "x", "destination": str(path)}),
            ):
                answer = await client.request(method, url, json=body)
                assert answer.status_code in (403, 404), (method, url, answer.text)
        for path in (home, home / ".local"):
            for method, url, body in (
                ("DELETE", f"/files/remove?path={path}", None),
                ("POST", "/files/move", {"source": str(path), "destination": "x"}),
            ):
                answer = await client.request(method, url, json=body)
                assert answer.status_code in (400, 403), (method, url, answer.text)
        for url in (
            f"/files/list?recursive=1&path={home}",
            f"/files/search?pattern=SECRET&path={home}",
            f"/files/archive?format=tar&path={home}",
        ):
            answer = await client.get(url)
            assert answer.status_code == 200
            assert SECRET_CONTENT not in answer.content
            assert b"jwt-secret" not in answer.content
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(".local/state/jwt-secret"))
        answer = await client.post(f"/files/archive?path={home}", content=out.getvalue())
        assert answer.status_code == 403
    ours = {"kernelagent.db", "kernelagent.lock", "jobs"}
    assert {path.name for path in state.iterdir()} - ours == {"jwt-secret"}
    assert (state / "jwt-secret").read_bytes() == SECRET_CONTENT
