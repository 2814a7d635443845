"""Hostile requests to an application whose roots are full of traps, and traps that move."""

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
from kernelagent.auth.tokens import Authenticator
from kernelagent.files.fs import syscalls
from kernelagent.settings import load_settings
from tests.servers import SECRET

WAYS = ("openat2", "walk")

SECRET_CONTENT = b"SECRET-CONTENT"
TOKEN = "pwned-7c1f"
ALLOWED = {200, 206, 304, 400, 403, 404, 409, 413, 416}


def set_traps(root: Path) -> None:
    """Make two roots full of traps, and what must not be touched."""
    for name in ("workspace/a/b", "other", "outside/deep", "state", "workspace/state2"):
        (root / name).mkdir(parents=True)
    for name in ("outside/secret", "outside/deep/secret", "state/jwt-secret", "secret"):
        (root / name).write_bytes(SECRET_CONTENT)
    workspace = root / "workspace"
    (workspace / "file").write_text("fine")
    (workspace / "a" / "b" / "file").write_text("fine")
    for name, target in (
        ("out", root / "outside"),
        ("out-file", root / "outside" / "secret"),
        ("up", ".."),
        ("up-out", "../outside"),
        ("proc", "/proc/self"),
        ("root", "/"),
        ("loop", "loop"),
        ("chain", "out"),
        ("dangling", root / "outside" / TOKEN),
        ("a/rel", "../../outside/secret"),
        ("state-link", root / "state"),
        ("inside", "a/b"),
    ):
        (workspace / name).symlink_to(target)
    if os.geteuid() == 0:
        os.link(root / "secret", workspace / "hard")
    os.mkfifo(workspace / "pipe")


@contextlib.contextmanager
def application(root: Path, runtime_dir: Path, way: str) -> Iterator[FastAPI]:
    """The application, by one of the ways to resolve paths; nothing of kernels is started."""
    settings = load_settings(
        workspace=root / "workspace",
        state_dir=root / "state",
        runtime_dir=runtime_dir,
        jwt_secret=SECRET,
        file_roots=(root / "other",),
        max_file_operations=1000,
        isolation="off",
        pool_idle=0,
        fork_server=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        if way == "walk":
            patch.setattr(syscalls, "can_openat2", lambda: False)
        yield create_app(settings)


@contextlib.asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a good token, without a network."""
    token, _ = Authenticator.from_settings(app.state.settings).issue()
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://agent", headers=headers) as client,
    ):
        yield client


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


async def attack(
    client: httpx.AsyncClient, root: Path, rng: random.Random, count: int
) -> dict[int, int]:
    """Send `count` hostile requests, which touch nothing outside; how many had which status."""
    before = snapshot(root)
    workspace = root / "workspace"
    statuses: dict[int, int] = {}
    hostile = paths(root, rng)
    links = {path.name: path.readlink() for path in workspace.iterdir() if path.is_symlink()}
    for number in range(count):
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
    return statuses


async def swap_names(client: httpx.AsyncClient, root: Path, rounds: int) -> tuple[int, int]:
    """Use names that another thread gives to a directory and to a link to one outside, in turns.

    How often it did, and how many requests succeeded.
    """
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
        for number in range(rounds):
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
    return swaps, seen[200]


async def move_directory(client: httpx.AsyncClient, root: Path, rounds: int) -> None:
    """Go through `..` of a directory that another thread moves out of its root and back."""
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
        for _ in range(rounds):
            answer = await client.get("/files/read?path=m/n/../secret")
            assert answer.status_code in (400, 403, 404), answer.text
            assert SECRET_CONTENT not in answer.content
    finally:
        stop.set()
        mover.join()
