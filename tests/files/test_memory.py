"""Large files: the server's memory stays as it is, and nobody else waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.files.conftest import files_server
from tests.runs import client_of
from tests.servers import Server

MIB = 2**20
GIB = 2**30
PIECE = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def large_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with files_server(tmp_path_factory.mktemp("memory")) as running:
        yield running


def memory(server: Server, field: str = "VmRSS") -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    match = re.search(rf"{field}:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


def forget_peak(server: Server) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


async def slowest_ping(client: httpx.AsyncClient, work: Awaitable[Any]) -> tuple[Any, float]:
    """What the work gives, and how long anybody else had to wait meanwhile."""
    task = asyncio.ensure_future(work)
    worst = 0.0
    while not task.done():
        started = time.monotonic()
        assert (await client.get("/ping")).status_code == 200
        worst = max(worst, time.monotonic() - started)
        await asyncio.sleep(0.005)
    return task.result(), worst


@pytest.mark.timeout(400)
async def test_a_gigabyte_is_uploaded_and_downloaded_in_little_memory(
    large_server: Server,
) -> None:
    async def form() -> AsyncIterator[bytes]:
        yield (b'--b\r\nContent-Disposition: form-data; name="file"; filename="large"\r\n\r\n')
        for _ in range(GIB // len(PIECE)):
            yield PIECE
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="path"\r\n\r\nd/large\r\n--b--\r\n'

    async with large_server.client(timeout=300) as client:
        await client.get("/files/list")
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        idle = memory(large_server)
        forget_peak(large_server)
        response = await client.post("/files/upload", content=form(), headers=headers)
        assert response.status_code == 200, response.text
        assert response.json()["size"] == GIB
        assert memory(large_server, "VmHWM") - idle < 50 * MIB

        forget_peak(large_server)
        expected, found, size = hashlib.blake2b(), hashlib.blake2b(), 0
        for _ in range(GIB // len(PIECE)):
            expected.update(PIECE)
        async with client.stream("GET", "/files/download?path=d/large") as download:
            async for piece in download.aiter_raw():
                found.update(piece)
                size += len(piece)
        assert size == GIB
        assert found.digest() == expected.digest()
        assert memory(large_server, "VmHWM") - idle < 50 * MIB

        size = 0
        forget_peak(large_server)
        async with client.stream("GET", "/files/archive?path=d&format=tar") as archive:
            async for piece in archive.aiter_raw():
                size += len(piece)
        assert GIB < size < GIB + 20480
        assert memory(large_server, "VmHWM") - idle < 50 * MIB
        (large_server.workspace / "d" / "large").unlink()


@pytest.mark.timeout(300)
async def test_a_hundred_megabytes_of_json_hold_up_nobody(large_server: Server) -> None:
    text = 'line "of" text é \\ \n' * (100 * MIB // 21)
    body = json.dumps({"path": "text", "content": text}, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    async with client_of(large_server) as client, client_of(large_server) as other:

        async def write() -> int:
            # The client itself takes its time to send it: piece by piece, so that pings go out.
            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(body), 256 * 1024):
                    yield body[start : start + 256 * 1024]
                    await asyncio.sleep(0)

            response = await client.post("/files/write", content=pieces(), headers=headers)
            assert response.status_code == 200, response.text
            return int(response.json()["size"])

        async def read() -> int:
            size = 0
            async with client.stream("GET", "/files/read?path=text") as response:
                async for piece in response.aiter_raw():
                    size += len(piece)
            return size

        size, worst_write = await slowest_ping(other, write())
        assert size == len(text.encode())
        assert (large_server.workspace / "text").read_text() == text
        size, worst_read = await slowest_ping(other, read())
        assert size > len(text.encode())
    # Without pieces each of them would be a multiple of this.
    assert worst_write < 0.5
    assert worst_read < 0.5


@pytest.mark.timeout(300)
async def test_patterns_that_take_memory_are_bounded(large_server: Server) -> None:
    lines, line = large_server.workspace / "lines", large_server.workspace / "line"
    lines.write_text("line of a log file\n" * (60 * MIB // 19) + "a" * MIB + "zz")
    line.write_text("a" * MIB + "\nz")
    try:
        async with large_server.client(timeout=100) as client:
            await client.get("/files/search?pattern=needle")
            idle = memory(large_server)
            for pattern, path, most in (
                (r"(.|\n)*zz", "lines", 60 * MIB),
                (r"(?:(.)|\n)*[zy]", "line", 100 * MIB),
                # What each step of a group has matched is kept.
                (r"(?:a(?=(?:(.)|x)*))*[zy]", "line", 300 * MIB),
            ):
                forget_peak(large_server)
                params = {"pattern": pattern, "path": path}
                answer = await client.get("/files/search", params=params)
                assert answer.status_code == 200, answer.text
                assert memory(large_server, "VmHWM") - idle < most, pattern
    finally:
        lines.unlink()
        line.unlink()
