"""Large files: the server's memory stays as it is, and nobody else waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.files.conftest import files_server
from tests.files.large import HELD_UP, MIB, MOST_GROWTH, forget_peak, memory, send_text, transfer
from tests.servers import Server

SIZE = 256 * MIB


@pytest.fixture(scope="module")
def large_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with files_server(tmp_path_factory.mktemp("memory")) as running:
        yield running


async def test_a_gigabyte_is_uploaded_and_downloaded_in_little_memory(
    large_server: Server,
) -> None:
    """A part of it, of which as much is too much: `make prove large_files` sends all."""
    grown = await transfer(large_server, SIZE)
    assert max(grown.values()) < MOST_GROWTH * SIZE, grown


async def test_a_hundred_megabytes_of_json_hold_up_nobody(large_server: Server) -> None:
    """A part of them: `make prove large_files` sends all."""
    for pulse in await send_text(large_server, 40 * MIB):
        assert pulse.most < HELD_UP


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
                (r"(?:a(?:(?:(a)|x)*))*[zy]", "line", 100 * MIB),
            ):
                forget_peak(large_server)
                params = {"pattern": pattern, "path": path}
                answer = await client.get("/files/search", params=params)
                assert answer.status_code == 200, answer.text
                assert memory(large_server, "VmHWM") - idle < most, pattern
    finally:
        lines.unlink()
        line.unlink()
