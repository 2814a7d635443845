"""Large files and texts, up and down, and what the server takes for them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

from tests.files.pulse import Pulse, pulse
from tests.runs import client_of
from tests.servers import Server

MIB = 2**20
# By so much of the size of a file the server may grow; it is 50 MiB for one of 1 GiB.
MOST_GROWTH = 50 / 1024
# Seconds that the server may work before it answers others; without pieces they are a multiple.
HELD_UP = 0.05

PIECE = bytes(range(256)) * 4096


def memory(server: Server, field: str = "VmRSS") -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    match = re.search(rf"{field}:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


def forget_peak(server: Server) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


async def transfer(server: Server, size: int) -> dict[str, int]:
    """Upload a file, download it, and as an archive; by how many bytes the server grew for each."""

    async def form() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="large"\r\n\r\n'
        for _ in range(size // len(PIECE)):
            yield PIECE
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="path"\r\n\r\nd/large\r\n--b--\r\n'

    grown = {}
    async with server.client(timeout=300) as client:
        await client.get("/files/list")
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        idle = memory(server)
        forget_peak(server)
        response = await client.post("/files/upload", content=form(), headers=headers)
        assert response.status_code == 200, response.text
        assert response.json()["size"] == size
        grown["upload"] = memory(server, "VmHWM") - idle

        forget_peak(server)
        expected, found, count = hashlib.blake2b(), hashlib.blake2b(), 0
        for _ in range(size // len(PIECE)):
            expected.update(PIECE)
        async with client.stream("GET", "/files/download?path=d/large") as download:
            async for piece in download.aiter_raw():
                found.update(piece)
                count += len(piece)
        assert count == size
        assert found.digest() == expected.digest()
        grown["download"] = memory(server, "VmHWM") - idle

        count = 0
        forget_peak(server)
        async with client.stream("GET", "/files/archive?path=d&format=tar") as archive:
            async for piece in archive.aiter_raw():
                count += len(piece)
        assert size < count < size + 20480
        grown["archive"] = memory(server, "VmHWM") - idle
        (server.workspace / "d" / "large").unlink()
    return grown


async def send_text(server: Server, size: int) -> tuple[Pulse, Pulse]:
    """Write a text of so many bytes as JSON, and read it; what others saw of either."""
    text = 'line "of" text é \\ \n' * (size // 21)
    body = json.dumps({"path": "text", "content": text}, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    async with client_of(server) as client:

        async def write() -> int:
            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(body), 256 * 1024):
                    yield body[start : start + 256 * 1024]

            response = await client.post("/files/write", content=pieces(), headers=headers)
            assert response.status_code == 200, response.text
            return int(response.json()["size"])

        async def read() -> int:
            count = 0
            async with client.stream("GET", "/files/read?path=text") as response:
                async for piece in response.aiter_raw():
                    count += len(piece)
            return count

        async with pulse(server) as writing:
            written = await write()
        assert written == len(text.encode())
        assert (server.workspace / "text").read_text() == text
        async with pulse(server) as reading:
            count = await read()
        assert count > len(text.encode())
    return writing, reading
