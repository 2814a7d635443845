"""Reading and writing: what clients of /files see."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kernelagent.files import bulk
from kernelagent.files.fs import threads
from tests.files.conftest import WRITE_LIMIT, Files
from tests.servers import serving_in_process
from tests.waiting import PATIENCE

TEXT = 'line "one"\nzwei \\ drei é € 😀\0\x01\u2028 end'


async def test_what_is_written_is_read(files: Files) -> None:
    answer = await files.write("a/b/text", TEXT)
    assert answer["success"] is True
    assert answer["size"] == len(TEXT.encode())
    assert answer["timestamp"].endswith("Z")
    assert (files.workspace / "a" / "b" / "text").read_bytes() == TEXT.encode()
    answer = await files.ask("GET", "/files/read", params={"path": "a/b/text"})
    assert (answer["content"], answer["size"]) == (TEXT, len(TEXT.encode()))
    assert await files.read(str(files.workspace / "a" / "b" / "text")) == TEXT
    await files.write(str(files.other / "x"), "other")
    assert (files.other / "x").read_text() == "other"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 262_144, 262_145, 700_000])
async def test_bytes_come_back_exactly(files: Files, size: int) -> None:
    data = os.urandom(size)
    await files.write("bytes", base64.b64encode(data).decode(), encoding="base64")
    assert (files.workspace / "bytes").read_bytes() == data
    params = {"path": "bytes", "encoding": "base64"}
    answer = await files.ask("GET", "/files/read", params=params)
    assert base64.b64decode(answer["content"], validate=True) == data
    assert answer["size"] == size
    answer = await files.ask("GET", "/files/read", params={"path": "bytes"})
    assert answer["content"] == data.decode("utf-8", "replace")


async def test_large_text(files: Files) -> None:
    text = TEXT * 20_000
    assert len(text.encode()) > 2**19
    await files.write("large", text)
    assert (files.workspace / "large").read_text() == text
    assert await files.read("large") == text


@pytest.mark.parametrize(
    "content", ["AAE", "A===", "AA=A", "Ä", "!!!!", "=AAA", "AAAA=", "AA==AAAA", "A" * 600_001]
)
async def test_bad_base64_changes_nothing(files: Files, content: str) -> None:
    await files.write("file", "old")
    body = {"path": "file", "content": content, "encoding": "base64"}
    await files.refused("POST", "/files/write", 400, "INVALID_REQUEST", json=body)
    assert (files.workspace / "file").read_text() == "old"


async def test_base64_in_lines(files: Files) -> None:
    data = os.urandom(500_000)
    await files.write("file", base64.encodebytes(data).decode(), encoding="base64")
    assert (files.workspace / "file").read_bytes() == data


async def test_modes(files: Files) -> None:
    def mode() -> int:
        return stat.S_IMODE((files.workspace / "file").stat().st_mode)

    await files.write("file")
    assert mode() == 0o644
    await files.write("file", mode="0755")
    assert mode() == 0o755
    await files.write("file", "kept")
    assert mode() == 0o755
    await files.write("file", mode="600")
    assert mode() == 0o600
    for wrong in ("rwx", "888", "4755", "", "-1"):
        body = {"path": "file", "content": "", "mode": wrong}
        await files.refused("POST", "/files/write", 400, "INVALID_REQUEST", json=body)


async def test_overwrite(files: Files) -> None:
    await files.write("file", "one", overwrite=False)
    body = {"path": "file", "content": "two", "overwrite": False}
    await files.refused("POST", "/files/write", 409, "FILE_ALREADY_EXISTS", json=body)
    assert await files.read("file") == "one"
    await files.write("file", "two", overwrite=True)
    await files.write("file", "three", overwrite=None, encoding=None, mode=None, unknown=1)
    assert await files.read("file") == "three"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "MISSING_PARAMETER"),
        (b"{", "INVALID_JSON"),
        (b"[]", "INVALID_JSON"),
        (b'{"path": "x"}', "MISSING_PARAMETER"),
        (b'{"path": "x", "content": null}', "MISSING_PARAMETER"),
        (b'{"content": "x"}', "MISSING_PARAMETER"),
        (b'{"path": "x", "content": 1}', "INVALID_REQUEST"),
        (b'{"path": "x", "content": "", "encoding": "rot13"}', "INVALID_REQUEST"),
        (b'{"path": "x", "content": "\\ud800"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "\xff"}', "INVALID_JSON"),
        (b'{"path": "", "content": ""}', "INVALID_PATH"),
        (b'{"path": "a\\u0000b", "content": ""}', "INVALID_PATH"),
        (b'{"path": "x/", "content": ""}', "INVALID_PATH"),
        (b'{"path": ".", "content": ""}', "INVALID_PATH"),
        (b'{"path": "x", "content": "' + b"a" * 600_000, "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b'" "}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\\ud800" + b'"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\\u12" + b'"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\xff" + b'"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\n" + b'"}', "INVALID_JSON"),
        (b'{"path": 1, "content": "' + b"a" * 600_000 + b'"}', "INVALID_REQUEST"),
        (b'{"content": "' + b"a" * 600_000 + b'"}', "MISSING_PARAMETER"),
    ],
)
async def test_bodies_that_cannot_be_used(files: Files, content: bytes, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    await files.refused("POST", "/files/write", 400, code, content=content, headers=headers)
    assert list(files.workspace.iterdir()) == []


async def test_a_body_beyond_the_limit(files: Files) -> None:
    body = {"path": "x", "content": "a" * WRITE_LIMIT}
    await files.refused("POST", "/files/write", 413, "BODY_TOO_LARGE", json=body)

    async def chunks() -> Any:
        yield b'{"path": "x", "content": "'
        for _ in range(WRITE_LIMIT // 2**16 + 1):
            yield b"a" * 2**16
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    await files.refused(
        "POST", "/files/write", 413, "BODY_TOO_LARGE", content=chunks(), headers=headers
    )
    await files.write("fits", "a" * (WRITE_LIMIT - 1000))


async def test_two_writers_at_once_leave_one_of_both(files: Files) -> None:
    contents = ["a" * 500_000, "b" * 400_000]

    async def write(content: str) -> None:
        for _ in range(20):
            await files.write("file", content)

    async def read() -> None:
        while not done.is_set():
            assert await files.read("file") in contents

    done = asyncio.Event()
    await files.write("file", contents[0])
    reading = asyncio.create_task(read())
    await asyncio.gather(*map(write, contents))
    done.set()
    await reading
    assert await files.read("file") in contents


async def test_only_one_of_many_makes_a_file(files: Files) -> None:
    async def write(number: int) -> int:
        body = {"path": "file", "content": str(number), "overwrite": False}
        return (await files.client.post("/files/write", json=body)).status_code

    statuses = await asyncio.gather(*map(write, range(20)))
    assert sorted(statuses) == [200] + [409] * 19


async def test_more_than_the_settings_allow_is_refused(files: Files) -> None:
    from kernelagent.errors import FileLimit
    from kernelagent.files.fs.threads import FileThreads

    threads = FileThreads(None, 1)
    with threads.operation(), pytest.raises(FileLimit), threads.operation():
        pass
    with threads.operation():
        assert await threads.run(lambda: 1) == 1
    await threads.close()


def test_a_large_write_keeps_no_short_work_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    cut_string = bulk.cut_string

    def cut_later(*arguments: Any) -> Any:
        begun.set()
        assert may_go_on.wait(PATIENCE)
        return cut_string(*arguments)

    monkeypatch.setattr(bulk, "cut_string", cut_later)
    monkeypatch.setattr(threads, "QUICK_THREADS", 1)
    large = {"path": "large", "content": "x" * (bulk.PIECE + 1)}
    with (
        serving_in_process(tmp_path, pool_idle=0, fork_server=False) as server,
        ThreadPoolExecutor(1) as client,
    ):
        try:
            write = client.submit(server.request, "POST", "/files/write", json=large)
            assert begun.wait(PATIENCE)
            answer = server.request("GET", "/files/exists", params={"path": "large"})
            assert answer.json()["exists"] is False
        finally:
            may_go_on.set()
        assert write.result().json()["size"] == bulk.PIECE + 1
