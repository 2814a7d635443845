"""Hostile paths, and names that change while they are used: nothing outside is read or written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import pytest
from fastapi import FastAPI

from kernelagent.app import create_app
from kernelagent.auth import Authenticator
from kernelagent.files import kernel
from kernelagent.settings import load_settings
from tests.servers import SECRET

SECRET_CONTENT = b"SECRET-CONTENT"
TOKEN = "pwned-7c1f"
ALLOWED = {200, 206, 304, 400, 403, 404, 409, 413, 416}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two roots full of traps, and what must not be touched."""
    for name in ("workspace/a/b", "other", "outside/deep", "state", "workspace/state2"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("outside/secret", "outside/deep/secret", "state/jwt-secret", "secret"):
        (tmp_path / name).write_bytes(SECRET_CONTENT)
    workspace = tmp_path / "workspace"
    (workspace / "file").write_text("fine")
    (workspace / "a" / "b" / "file").write_text("fine")
    for name, target in (
        ("out", tmp_path / "outside"),
        ("out-file", tmp_path / "outside" / "secret"),
        ("up", ".."),
        ("up-out", "../outside"),
        ("proc", "/proc/self"),
        ("root", "/"),
        ("loop", "loop"),
        ("chain", "out"),
        ("dangling", tmp_path / "outside" / TOKEN),
        ("a/rel", "../../outside/secret"),
        ("state-link", tmp_path / "state"),
        ("inside", "a/b"),
    ):
        (workspace / name).symlink_to(target)
    if os.geteuid() == 0:
        os.link(tmp_path / "secret", workspace / "hard")
    os.mkfifo(workspace / "pipe")
    return tmp_path


@pytest.fixture(params=["openat2", "walk"])
def app(request: pytest.FixtureRequest, root: Path, runtime_dir: Path) -> Iterator[FastAPI]:
    """The application, by both ways to resolve paths; nothing of kernels is started."""
    settings = load_settings(
        workspace=root / "workspace",
        state_dir=root / "state",
        runtime_dir=runtime_dir,
        jwt_secret=SECRET,
        file_roots=(root / "other",),
        max_file_operations=1000,
    )
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "walk":
            patch.setattr(kernel, "can_openat2", lambda: False)
        yield create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    token, _ = Authenticator.from_settings(app.state.settings).issue()
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://agent", headers=headers
    ) as client:
        yield client
    await app.state.files.close()


def snapshot(root: Path) -> dict[str, Any]:
    """All that is outside the roots."""
    found: dict[str, Any] = {}
    for top in ("outside", "state", "secret"):
        for path in (root / top, *(root / top).rglob("*")):
            facts = path.lstat()
            content = path.read_bytes() if path.is_file() else None
            found[str(path)] = (facts.st_mode, facts.st_ino, facts.st_mtime_ns, content)
    found["top"] = sorted(path.name for path in root.iterdir())
    return found


def no_token_outside() -> bool:
    places = ["/", "/etc", "/root", "/usr", "/var", "/dev", str(Path.cwd())]
    return not any((Path(place) / TOKEN).exists() for place in places)


def paths(root: Path, rng: random.Random) -> Iterator[bytes]:
    """Paths without end, of pieces that lead outside."""
    pieces = [
        *(b"..", b".", b"", b"a", b"b", b"file", b"out", b"out-file", b"up", b"up-out", b"proc"),
        *(b"root", b"loop", b"chain", b"dangling", b"rel", b"state-link", b"inside", b"hard"),
        *(b"secret", b"outside", b"state", b"jwt-secret", b"workspace", b"other", b"pipe"),
        *(b"cwd", b"fd", b"0", b"environ", b"self", b"etc", b"passwd", TOKEN.encode(), b"deep"),
        *(b"...", b" ", b"..\\..", b"%2e%2e", b"..%2f", b"\xff", b"\xc0\xae\xc0\xae", b"a\0b"),
        *("\u2024\u2024".encode(), "\uff0e\uff0e".encode(), "\uef80".encode(), b"x" * 256),
        *(b"~", b"$HOME", b"C:", b"*", b"\n", b"a" * 4096),
    ]
    tops = [
        *(b"", b"/", b"//", b"./", b"../", b"../../", b"/proc/self/root", b"/proc/self/cwd/"),
        *(b"/dev/fd/", b"/etc/", b"/proc/1/", b"file://", b"/proc/self/fd/3/", b"\\"),
        *(os.fsencode(root / name) + b"/" for name in ("workspace", "other", "outside", "state")),
        *(os.fsencode(root) + b"/", os.fsencode(root / "workspace")),
        b"/proc/self/root" + os.fsencode(root) + b"/outside/",
    ]
    while True:
        parts = [rng.choice(pieces) for _ in range(rng.randrange(1, 7))]
        yield rng.choice(tops) + b"/".join(parts)


def requests(path: bytes, rng: random.Random) -> list[dict[str, Any]]:
    """One of the calls that take a path, as a client could send it."""
    query = quote_from_bytes(path, safe="" if rng.random() < 0.7 else "/.%")
    text = path.decode("utf-8", "replace")
    gets = ["read", "download", "list", "stat", "exists", "archive?format=tar", "search?pattern=."]
    get = rng.choice(gets)
    call: dict[str, Any] = {
        "method": "GET",
        "url": f"/files/{get}{'&' if '?' in get else '?'}path={query}",
    }
    choice = rng.randrange(10)
    if choice == 0:
        call = {"method": "POST", "url": "/files/write", "json": {"path": text, "content": "W"}}
    elif choice == 1:
        call = {"method": "DELETE", "url": f"/files/remove?path={query}"}
    elif choice == 2:
        call = {"method": "POST", "url": "/files/mkdir", "json": {"path": text}}
    elif choice in (3, 4):
        ends = [text, rng.choice(["file", "a", f"{TOKEN}-new", "other"])]
        if rng.random() < 0.5:
            ends.reverse()
        call = {
            "method": "POST",
            "url": f"/files/{rng.choice(['move', 'copy'])}",
            "json": {"source": ends[0], "destination": ends[1], "overwrite": rng.random() < 0.5},
        }
    elif choice == 5:
        call = {
            "method": "POST",
            "url": "/files/upload",
            "files": {"file": (text.replace("\0", "0") or "x", b"W")},
            "data": {"path": text},
        }
    return [call]


@pytest.mark.timeout(600)
async def test_ten_thousand_hostile_paths(client: httpx.AsyncClient, root: Path) -> None:
    rng = random.Random(11)  # noqa: S311 - the same each time
    before = snapshot(root)
    workspace = root / "workspace"
    statuses: dict[int, int] = {}
    hostile = paths(root, rng)
    links = {path.name: path.readlink() for path in workspace.iterdir() if path.is_symlink()}
    for number in range(5000):  # of each way to resolve them
        for call in requests(next(hostile), rng):
            response = await client.request(**call)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code in ALLOWED, (call, response.text)
            assert SECRET_CONTENT not in response.content, call
        if number % 50 == 0:
            assert snapshot(root) == before
            # What was removed or replaced, so that the traps stay.
            for name, target in links.items():
                with contextlib.suppress(FileExistsError, NotADirectoryError):
                    (workspace / name).symlink_to(target)
            with contextlib.suppress(FileExistsError):
                (workspace / "a" / "b").mkdir(parents=True, exist_ok=True)
    assert snapshot(root) == before
    assert no_token_outside()
    # It was worth something: much was refused, and much was not.
    assert statuses[403] > 500
    assert statuses[200] > 500


@pytest.mark.timeout(300)
async def test_names_that_change_while_they_are_used(
    app: FastAPI, client: httpx.AsyncClient, root: Path
) -> None:
    before = snapshot(root)
    workspace = root / "workspace"
    (workspace / "real" / "deep").mkdir(parents=True)
    for name in ("real/secret", "real/deep/secret"):
        (workspace / name).write_text("fine")
    (workspace / "trap").symlink_to(root / "outside")
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        real, name, trap = workspace / "real", workspace / "name", workspace / "trap"
        while not stop.is_set():
            with contextlib.suppress(OSError):
                real.rename(name)
            with contextlib.suppress(OSError):
                name.rename(real)
            with contextlib.suppress(OSError):
                trap.rename(name)
            with contextlib.suppress(OSError):
                name.rename(trap)
            swaps += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: dict[int, int] = {}
    try:
        for number in range(150):
            name = f"{TOKEN}-{number % 5}"
            answers = await asyncio.gather(
                client.get("/files/read?path=name/secret"),
                client.get("/files/read?path=name/deep/secret"),
                client.get("/files/read?path=name/deep/../secret"),
                client.get("/files/download?path=name/secret"),
                client.get("/files/list?path=name&recursive=1"),
                client.get("/files/search?path=name&pattern=."),
                client.get("/files/archive?path=.&format=tar"),
                client.post("/files/write", json={"path": f"name/{name}", "content": "W"}),
                client.post("/files/write", json={"path": f"name/x/{name}", "content": "W"}),
                client.post("/files/mkdir", json={"path": f"name/{name}-d/e"}),
                client.post("/files/copy", json={"source": "file", "destination": f"name/{name}c"}),
                client.post("/files/move", json={"source": "name/secret", "destination": name}),
                client.request("DELETE", "/files/remove?path=name/deep/secret"),
                client.post("/files/upload", files={"file": ("n", b"W")}, data={"path": "name/u"}),
            )
            for answer in answers:
                assert answer.status_code in ALLOWED, answer.text
                assert SECRET_CONTENT not in answer.content
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            for path in ("real/secret", "real/deep/secret"):
                with contextlib.suppress(OSError):
                    (workspace / path).write_text("fine")
    finally:
        stop.set()
        swapper.join()
    assert snapshot(root) == before
    assert swaps > 100
    assert seen[200] > 100


async def test_a_moved_directory_takes_nobody_along(
    app: FastAPI, client: httpx.AsyncClient, root: Path
) -> None:
    """Between two roots and out of them: `..` does not lead where the directory has gone."""
    workspace = root / "workspace"
    (workspace / "m" / "n").mkdir(parents=True)
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                (workspace / "m" / "n").rename(root / "outside" / "deep" / "n")
            with contextlib.suppress(OSError):
                (root / "outside" / "deep" / "n").rename(workspace / "m" / "n")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(1500):
            answer = await client.get("/files/read?path=m/n/../secret")
            assert answer.status_code in (400, 403, 404), answer.text
            assert SECRET_CONTENT not in answer.content
    finally:
        stop.set()
        mover.join()


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
    )
    (tmp_path / "home" / "workspace").mkdir()
    app = create_app(settings)
    token, _ = Authenticator.from_settings(settings).issue()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://agent", headers=headers
    ) as client:
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
        import io
        import tarfile

        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(".local/state/jwt-secret"))
        answer = await client.post(f"/files/archive?path={home}", content=out.getvalue())
        assert answer.status_code == 403
    await app.state.files.close()
    assert [path.name for path in state.iterdir()] == ["jwt-secret"]
    assert (state / "jwt-secret").read_bytes() == SECRET_CONTENT
