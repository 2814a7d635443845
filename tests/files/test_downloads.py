"""Downloads: ranges, conditions, names."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.files.conftest import Files
from tests.waiting import until

DATA = os.urandom(1_000_000)


async def download(files: Files, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await files.client.get("/files/download", params={"path": "file"}, headers=names)


@pytest.fixture(autouse=True)
def _file(files: Files) -> None:
    (files.workspace / "file").write_bytes(DATA)


async def test_the_whole(files: Files) -> None:
    # Whatever a client accepts: a published one asks for JSON and reads bytes.
    response = await download(files, Accept="application/json")
    assert response.status_code == 200
    assert response.content == DATA
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == str(len(DATA))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-disposition"] == 'attachment; filename="file"'


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=500-", 500, 1_000_000),
        ("bytes=-10", 999_990, 1_000_000),
        ("bytes=-2000000", 0, 1_000_000),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=999000-99999999", 999_000, 1_000_000),
        ("BYTES=1-2", 1, 3),
        ("bytes= 1 - 2", 1, 3),
    ],
)
async def test_ranges(files: Files, wanted: str, start: int, end: int) -> None:
    response = await download(files, Range=wanted)
    assert response.status_code == 206
    assert response.content == DATA[start:end]
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/1000000"
    assert response.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "wanted",
    ["bytes=0-1,5-6", "bytes=5-2", "bytes=-", "bytes=a-b", "lines=1-2", "0-5", "bytes=1-2-3", ""],
)
async def test_what_is_no_range_is_answered_by_all(files: Files, wanted: str) -> None:
    response = await download(files, Range=wanted)
    assert (response.status_code, len(response.content)) == (200, len(DATA))


@pytest.mark.parametrize(
    "wanted", ["bytes=1000000-", "bytes=9999999999999999999-", "bytes=-0", "bytes=2000000-3000000"]
)
async def test_a_range_behind_the_end(files: Files, wanted: str) -> None:
    response = await download(files, Range=wanted)
    assert (response.status_code, response.json()["code"]) == (416, "RANGE_NOT_SATISFIABLE")
    assert response.headers["content-range"] == "bytes */1000000"


async def test_an_empty_file(files: Files) -> None:
    (files.workspace / "file").write_bytes(b"")
    response = await download(files)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "0"
    assert (await download(files, Range="bytes=0-")).status_code == 416


async def test_conditions(files: Files) -> None:
    first = await download(files)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        response = await download(files, If_None_Match=known)
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == tag
    assert (await download(files, If_None_Match='"other"')).status_code == 200
    assert (await download(files, If_Modified_Since=date)).status_code == 304
    assert (
        await download(files, If_Modified_Since="Thu, 01 Jan 1970 00:00:00 GMT")
    ).status_code == 200
    assert (await download(files, If_Modified_Since="yesterday")).status_code == 200
    answer = await download(files, If_None_Match='"other"', If_Modified_Since=date)
    assert answer.status_code == 200
    assert (await download(files, Range="bytes=0-9", If_Range=tag)).status_code == 206
    assert (await download(files, Range="bytes=0-9", If_Range=date)).status_code == 206
    assert (await download(files, Range="bytes=0-9", If_Range='"other"')).status_code == 200
    # Every write is another version, also one of the same size in the same moment.
    await files.write("file", "x")
    tags = {(await download(files)).headers["etag"]}
    for content in "yz":
        await files.write("file", content)
        tags.add((await download(files)).headers["etag"])
    assert len(tags) == 3
    assert (await download(files, If_None_Match=tag)).status_code == 200


async def test_names(files: Files) -> None:
    for name, expected in (
        ("plain name.txt", 'attachment; filename="plain name.txt"'),
        ('a"b', "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
        ("é\r\n", "attachment; filename=\"___\"; filename*=UTF-8''%C3%A9%0D%0A"),
    ):
        (files.workspace / name).write_text(name)
        response = await files.client.get("/files/download", params={"path": name})
        assert response.headers["content-disposition"] == expected


async def test_errors(files: Files) -> None:
    for path, status, code in (
        ("missing", 404, "FILE_NOT_FOUND"),
        ("/etc/passwd", 403, "PATH_NOT_ALLOWED"),
        (".", 400, "INVALID_PATH"),
        ("", 400, "MISSING_PARAMETER"),
    ):
        params = {"path": path}
        await files.refused("GET", "/files/download", status, code, params=params)


async def test_a_file_that_becomes_shorter_is_not_taken_for_whole(files: Files) -> None:
    path = files.workspace / "file"
    os.truncate(path, 64 * 2**20)
    async with files.client.stream("GET", "/files/download", params={"path": "file"}) as response:
        received: Any = response.aiter_raw()
        await anext(received)
        os.truncate(path, 0)
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in received:
                pass
    assert (await download(files)).status_code == 200


async def test_a_client_that_leaves_leaves_nothing_open(files: Files) -> None:
    os.truncate(files.workspace / "file", 512 * 2**20)
    descriptors = Path(f"/proc/{files.server.process.pid}/fd")

    def is_open() -> bool:
        for descriptor in descriptors.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if descriptor.readlink() == files.workspace / "file":
                    return True
        return False

    for path in ("/files/download?path=file", "/files/read?path=file", "/files/archive?format=tar"):
        async with files.client.stream("GET", path) as response:
            await anext(response.aiter_raw())
            assert is_open()
        await until(lambda: not is_open())
