"""Cached runs that depend on files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.execution.cache.cached import cached_run, counting, leave, runs
from tests.runs import refused
from tests.servers import Server


async def test_a_result_holds_while_its_input_is_the_same(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    fields = {"workdir": str(tmp_path), "input_files": ["in.txt"]}
    code = "print(open('in.txt').read())"

    shown = []
    for text in ("one", "one", "two", "one", "one "):
        file.write_text(text)
        answer = await cached_run(server, code, **fields)
        shown.append((answer["stdout"], answer["cached"]))

    assert shown == [
        ("one\n", False),
        ("one\n", True),
        ("two\n", False),
        ("one\n", True),
        ("one \n", False),
    ]


async def test_input_files_without_a_directory_are_in_the_workspace(server: Server) -> None:
    code = "print(open('cache-table.csv').read())"
    (server.workspace / "cache-table.csv").write_text("a,b")
    try:
        first = await cached_run(server, code, input_files=["cache-table.csv"])
        second = await cached_run(server, code, input_files=["cache-table.csv"] * 2)
        other = await cached_run(server, code, input_files=["./cache-table.csv"])
    finally:
        (server.workspace / "cache-table.csv").unlink()

    assert [first["cached"], second["cached"], other["cached"]] == [False, True, False]


async def test_contents_that_change_places_are_other_inputs(server: Server, tmp_path: Path) -> None:
    fields = {"workdir": str(tmp_path), "input_files": ["a", "b"]}
    answers = []
    for a, b in (("1", "2"), ("2", "1"), ("12", "")):
        (tmp_path / "a").write_text(a)
        (tmp_path / "b").write_text(b)
        answers.append(await cached_run(server, "print(open('a').read())", **fields))

    assert [answer["cached"] for answer in answers] == [False] * 3


@pytest.mark.parametrize("name", ["missing", "", ".", "folder", "pipe", "link-to-pipe", "/dev/zero",
    "/dev/tty", "dangling", "socket/x", "nul\0l", "x" * 5000, "/proc/kmsg"],
    ids=lambda name: name[:12].replace("\0", "0") or "empty")  # fmt: skip
async def test_what_is_no_readable_file_is_refused(
    server: Server, tmp_path: Path, name: str, counter: Path
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link-to-pipe").symlink_to("pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "good").write_text("x")

    body = await refused(
        server, 404, counting(counter), isolated=True, cache=True, workdir=str(tmp_path),
        input_files=["good", name], request_timeout=5,
    )  # fmt: skip

    assert body["code"] == "FILE_NOT_FOUND"
    assert body["details"]["path"] == str(tmp_path / name)[:1000]
    assert runs(counter) == 0


@pytest.mark.parametrize("how", ["write_text('other')", "unlink()", "write_text('there and back')"])
async def test_input_that_changes_meanwhile_is_not_kept(
    server: Server, tmp_path: Path, counter: Path, how: str
) -> None:
    (tmp_path / "in").write_text("there and back")
    code = counting(counter, f"import pathlib, time; time.sleep(0.05); pathlib.Path('in').{how}")
    fields = {"workdir": str(tmp_path), "input_files": ["in"]}

    assert (await cached_run(server, code, **fields))["cached"] is False
    (tmp_path / "in").write_text("there and back")
    assert (await cached_run(server, code, **fields))["cached"] is False
    assert runs(counter) == 2


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that takes longer to read than anybody waits, and no place on the disk."""
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(2**36)
    return tmp_path / "endless"


async def test_reading_input_has_the_time_of_its_request(
    server: Server, counter: Path, endless: Path
) -> None:
    body = await refused(
        server, 409, counting(counter), isolated=True, cache=True, input_files=[str(endless)],
        request_timeout=0.2,
    )  # fmt: skip

    assert body["code"] == "QUEUE_TIMEOUT"
    assert runs(counter) == 0


async def test_reading_input_stops_when_its_callers_leave(
    server: Server, counter: Path, tmp_path: Path, endless: Path
) -> None:
    (tmp_path / "small").write_text("x")
    code = counting(counter)
    fields = {"input_files": [str(endless)], "timeout": 3000}
    callers = [asyncio.create_task(cached_run(server, code, **fields)) for _ in range(8)]
    await asyncio.sleep(0.3)
    for caller in callers:
        await leave(caller)

    # It would have to wait for them.
    answer = await cached_run(server, code, input_files=[str(tmp_path / "small")])
    assert (answer["success"], runs(counter)) == (True, 1)
