"""Uploads by form: any order, any chunks, broken bodies, limits, lost clients."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelagent.web import middleware
from tests.files.broken import form, kind, part, send_broken_forms
from tests.files.conftest import UPLOAD_LIMIT, Files
from tests.servers import Service, serving_in_process
from tests.waiting import PATIENCE

DATA = os.urandom(300_000) + b"\r\n--bound\r\n--boundar" + b"\r\n" * 50


async def upload(files: Files, body: Any, **options: Any) -> Any:
    options.setdefault("headers", kind())
    return await files.ask("POST", "/files/upload", content=body, **options)


@pytest.mark.parametrize("size", [1, 7, 1000, 65536])
@pytest.mark.parametrize("order", ["path first", "file first"])
async def test_any_order_in_any_chunks(files: Files, order: str, size: int) -> None:
    data = DATA[-5000:] if size < 10 else DATA
    parts = [part("path", b"a/b/file"), part("file", data, "local.bin", Content_Type="x/y")]
    body = form(*(parts if order == "path first" else parts[::-1]))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    answer = await upload(files, chunks())
    assert (answer["path"], answer["size"], answer["success"]) == ("a/b/file", len(data), True)
    assert (files.workspace / "a" / "b" / "file").read_bytes() == data


async def test_where_it_goes(files: Files) -> None:
    await files.ask("POST", "/files/mkdir", json={"path": "dir"})
    for path, sent, expected in (
        (None, "name.txt", "name.txt"),
        ("", "name2.txt", "name2.txt"),
        ("dir", "x", "dir/x"),
        ("new/", "x", "new/x"),
        ("dir/y", "x", "dir/y"),
        (None, "C:\\\\Users\\\\me\\\\z.txt", "z.txt"),
        (None, "../../up", "up"),
        ("é€", "x", "é€"),
        (str(files.other / "o"), "x", str(files.other / "o")),
    ):
        fields = [] if path is None else [part("path", path.encode())]
        answer = await upload(files, form(part("file", expected.encode(), sent), *fields))
        assert answer["path"] == expected
        assert (files.workspace / expected).read_text() == expected
    answer = await upload(
        files, form(part("file", b"q", "sent")), params={"path": "query", "mode": "0700"}
    )
    assert answer["path"] == "query"
    assert (files.workspace / "query").stat().st_mode & 0o777 == 0o700
    await files.ask("POST", "/files/mkdir", json={"path": "dir/name"})
    options = {
        "headers": kind(),
        "content": form(part("file", b"q", "name"), part("path", b"dir/")),
    }
    await files.refused("POST", "/files/upload", 400, "INVALID_PATH", **options)
    assert list((files.workspace / "dir" / "name").iterdir()) == []
    body = form(part("file", b"again", "sent"))
    options = {"content": body, "headers": kind(), "params": {"path": "query", "overwrite": 0}}
    await files.refused("POST", "/files/upload", 409, "FILE_ALREADY_EXISTS", **options)
    assert (files.workspace / "query").read_text() == "q"


@pytest.mark.parametrize("mode", ["", "8", "0o644", "1777", "00644"])
async def test_bad_modes(files: Files, mode: str) -> None:
    options = {"content": form(part("file", b"x", "name")), "headers": kind()}
    options["params"] = {"mode": mode}
    await files.refused("POST", "/files/upload", 400, "INVALID_REQUEST", **options)
    assert list(files.workspace.iterdir()) == []


GOOD = part("file", b"content", "name")


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (form(GOOD), {"Content-Type": "multipart/form-data"}, "INVALID_REQUEST"),
        (form(GOOD), {}, "INVALID_REQUEST"),
        (form(GOOD), {"Content-Type": "application/json"}, "INVALID_REQUEST"),
        (form(GOOD), {"Content-Type": "\xff\xfe"}, "INVALID_REQUEST"),
        (form(GOOD), kind(""), "INVALID_REQUEST"),
        (form(GOOD), kind('""'), "INVALID_REQUEST"),
        (form(GOOD, boundary="b" * 200), kind("b" * 200), "INVALID_REQUEST"),
        (form(GOOD), kind('"a\\"b"'), "INVALID_REQUEST"),
        (form(GOOD), kind('"\xe9"'), "INVALID_REQUEST"),
        (form(GOOD), kind("another"), "INVALID_REQUEST"),
        (b"", kind(), "INVALID_REQUEST"),
        (b"garbage", kind(), "INVALID_REQUEST"),
        (os.urandom(5000), kind(), "INVALID_REQUEST"),
        (b"--boundary", kind(), "INVALID_REQUEST"),
        (b"--boundary--", kind(), "MISSING_PARAMETER"),
        (b"--boundary--\r\n", kind(), "MISSING_PARAMETER"),
        (form(GOOD, end=False), kind(), "INVALID_REQUEST"),
        (form(GOOD)[:-20], kind(), "INVALID_REQUEST"),
        (form(GOOD).replace(b"\r\n", b"\n"), kind(), "INVALID_REQUEST"),
        (form(part("path", b"x")), kind(), "MISSING_PARAMETER"),
        (form(part("other", b"x", "name")), kind(), "MISSING_PARAMETER"),
        (form(part("file", b"x")), kind(), "MISSING_PARAMETER"),
        (form(part("file", b"x", "..")), kind(), "MISSING_PARAMETER"),
        (form(part(None, b"x", "name")), kind(), "INVALID_REQUEST"),
        (form(part("", b"x", "name")), kind(), "INVALID_REQUEST"),
        (form(GOOD, GOOD), kind(), "INVALID_REQUEST"),
        (form(GOOD, part("path", b"a"), part("path", b"b")), kind(), "INVALID_REQUEST"),
        (form(GOOD, part("path", b"x" * 20_000)), kind(), "INVALID_REQUEST"),
        (form(GOOD, part("path", b"a\0b")), kind(), "INVALID_PATH"),
        (form(GOOD, part("path", b"x" * 5000)), kind(), "INVALID_PATH"),
        (form(part("file", b"x", "n" * 300)), kind(), "INVALID_PATH"),
        (form(part("file", b"x", "a\0b")), kind(), "INVALID_PATH"),
        (form(GOOD, *[part(f"f{n}", b"") for n in range(100)]), kind(), "INVALID_REQUEST"),
        (form(b"content without headers"), kind(), "INVALID_REQUEST"),
        (form(b"\r\ncontent"), kind(), "INVALID_REQUEST"),
        (form(b"Content-Disposition: attachment\r\n\r\nx"), kind(), "INVALID_REQUEST"),
        (form(b'Content-Disposition: form-data; name="\xff"\r\n\r\nx'), kind(), "INVALID_REQUEST"),
        (form(b"no colon\r\n\r\nx"), kind(), "INVALID_REQUEST"),
        (form(part("file", b"x", "name", X_Long="y" * 10_000)), kind(), "INVALID_REQUEST"),
        (
            form(part("file", b"x", "name", **{f"X-{n}": "y" for n in range(50)})),
            kind(),
            "INVALID_REQUEST",
        ),
        (form(part("file", b"x", "name", Content_Length="5")), kind(), "INVALID_REQUEST"),
        (form(part("file", b"x", "name", Content_Length="-5")), kind(), "INVALID_REQUEST"),
    ],
)
async def test_broken_bodies(files: Files, body: bytes, headers: dict[str, str], code: str) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await files.refused("POST", "/files/upload", 400, code, content=body, headers=raw)
    assert list(files.workspace.iterdir()) == []


async def test_broken_bodies_at_random(files: Files) -> None:
    """Some of them: `make prove broken_input` sends thousands."""
    await send_broken_forms(files.client, random.Random(7), 100)  # noqa: S311 - the same each time


async def test_where_nothing_may_go(files: Files) -> None:
    for path in (b"/etc/x", b"../outside/x", b"../outside/"):
        body = form(GOOD, part("path", path))
        options = {"content": body, "headers": kind()}
        await files.refused("POST", "/files/upload", 403, "PATH_NOT_ALLOWED", **options)


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A server that would read on after a refused body longer than anybody waits."""
    monkeypatch.setattr(middleware, "LINGER", 10 * PATIENCE)
    with serving_in_process(
        tmp_path, max_upload_bytes=UPLOAD_LIMIT, pool_idle=0, fork_server=False
    ) as running:
        yield running


@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_beyond_the_limit(patient: Service, declared: bool) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        head, tail = form(part("path", b"x"), part("file", b"@", "x")).split(b"@")
        yield head
        for _ in range(size // 2**15):
            yield b"a" * 2**15
        yield b"a" * (size % 2**15)
        yield tail

    async def send(size: int) -> Any:
        content: Any = chunks(size)
        if declared:
            content = b"".join([chunk async for chunk in chunks(size)])
        async with patient.client() as client:
            return await client.post("/files/upload", content=content, headers=kind())

    for size in (UPLOAD_LIMIT + 1, UPLOAD_LIMIT + 2**17, 10 * UPLOAD_LIMIT):
        # Nobody waits for more of a body that has come as a whole.
        response = await send(size)
        assert response.status_code == 413, size
        assert response.json()["code"] == "BODY_TOO_LARGE"
        assert list(patient.workspace.iterdir()) == []
    assert (await send(UPLOAD_LIMIT)).status_code == 200
    assert (patient.workspace / "x").stat().st_size == UPLOAD_LIMIT


async def test_a_lost_client_leaves_nothing(files: Files) -> None:
    (files.workspace / "file").write_text("old")
    body = form(part("path", b"file"), part("file", b"a" * 3_000_000, "x"))
    for cut in (0, 100, 5000, 2_000_000, len(body) - 5):
        host, port = files.server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            "POST /files/upload HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {files.server.token}\r\n"
            "Content-Type: multipart/form-data; boundary=boundary\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    # Whoever comes after them is served, and finds what was there.
    assert await files.read("file") == "old"
    assert await files.names() == ["file"]


async def test_an_error_is_seen_by_a_client_that_still_sends(files: Files) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield form(GOOD, GOOD, end=False)
        for _ in range(60):
            yield b"a" * 2**16

    response = await files.client.post("/files/upload", content=chunks(), headers=kind())
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")
