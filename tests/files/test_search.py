"""Text search: matches, limits, patterns that take for ever, and the small parts of /files."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import InvalidRequest
from kernelagent.files import bulk
from kernelagent.files.search.globs import Glob
from kernelagent.files.search.search import LONGEST_LINE, TIME_LIMIT
from tests.files.broken import check_json, check_names, check_patterns
from tests.files.conftest import Files


async def search(files: Files, pattern: str, **params: Any) -> Any:
    return await files.ask("GET", "/files/search", params={"pattern": pattern, **params})


async def found(files: Files, pattern: str, **params: Any) -> list[tuple[str, int, int]]:
    answer = await search(files, pattern, **params)
    assert answer["count"] == len(answer["matches"])
    base = f"{files.workspace}/"
    return [
        (match["path"].removeprefix(base), match["line"], match["column"])
        for match in answer["matches"]
    ]


async def test_matches(files: Files) -> None:
    await files.write("a/one.py", "import os\r\n\r\ndef main():\r\n    return os.getcwd()\r\n")
    await files.write("a/two.txt", "Zweite Zeile é\nmain main\nend")
    (files.workspace / "binary").write_bytes(b"main\0main")
    (files.workspace / "latin").write_bytes(b"caf\xe9 main")
    (files.workspace / "link").symlink_to("a/one.py")
    (files.workspace / "out").symlink_to(files.outside / "secret")
    assert await found(files, "main") == [
        ("a/one.py", 3, 5),
        ("a/two.txt", 2, 1),
        ("latin", 1, 6),
    ]
    assert await found(files, "main", glob="*.py") == [("a/one.py", 3, 5)]
    assert await found(files, "main", path="a/two.txt") == [("a/two.txt", 2, 1)]
    assert await found(files, "^end$") == [("a/two.txt", 3, 1)]
    assert await found(files, "getcwd()", literal=True) == [("a/one.py", 4, 15)]
    assert await found(files, r"\.getcwd\(\)") == [("a/one.py", 4, 14)]
    assert await found(files, "ZWEITE") == []
    assert await found(files, "ZWEITE", ignore_case=True) == [("a/two.txt", 1, 1)]
    assert await found(files, "SECRET") == []
    (match,) = (await search(files, r"def (\w+)"))["matches"]
    assert (match["text"], match["match"]) == ("def main():", "def main")
    answer = await search(files, "main", limit=1)
    assert (answer["count"], answer["truncated"], answer["reason"]) == (1, True, "limit")
    answer = await search(files, "main", limit=3)
    assert (answer["count"], answer["truncated"], answer["reason"]) == (3, False, None)
    assert answer["files_searched"] == 4


async def test_globs_of_names_that_are_no_utf8(files: Files) -> None:
    (files.workspace / os.fsdecode(b"\xffname")).write_text("needle")
    for glob, count in (("\uefffname", 1), ("*name", 1), ("\ueffename", 0)):
        assert (await search(files, "needle", glob=glob))["count"] == count


async def test_long_lines_are_cut_around_the_match(files: Files) -> None:
    await files.write("x", "a" * 60_000 + "needle" + "b" * 100_000)
    for pattern in ("needle", "(?:needle)"):
        (match,) = (await search(files, pattern))["matches"]
        assert match["column"] == 60_001
        assert len(match["text"]) == 1000
        assert "needle" in match["text"]


@pytest.mark.parametrize("pattern", ["needle", "(?:needle)", "needle$"])
async def test_only_the_begin_of_a_very_long_line_is_searched(files: Files, pattern: str) -> None:
    end = "" if pattern.endswith("$") else "more needle"
    lines = [
        "é" * (LONGEST_LINE - 6) + "needle" + end,
        "é" * (LONGEST_LINE - 5) + "needle",
        "a" * 3_000_000 + "needle",
        "a needle",
        "needle",
    ]
    (files.workspace / "x").write_text("\n".join(lines))
    assert await found(files, pattern) == [("x", 1, LONGEST_LINE - 5), ("x", 4, 3), ("x", 5, 1)]


async def test_lines_are_counted_however_they_are_read(files: Files) -> None:
    lines = [f"line {number} " + "x" * (number % 90) for number in range(60_000)]
    for number in (0, 1, 31_000, 59_999):
        lines[number] += "needle"
    for end in ("", "\n"):
        (files.workspace / "x").write_text("\n".join(lines) + end)
        for pattern in ("needle", "NEEDLE", "(?:needle)", "needle$|thread", "[n]eedle"):
            places = await found(files, pattern, ignore_case=pattern.isupper())
            assert [line for _, line, _ in places] == [1, 2, 31_001, 60_000]


async def test_a_pattern_matches_within_a_line(files: Files) -> None:
    await files.write("x", "one\ntwo\n\nthree")
    assert [line for _, line, _ in await found(files, "x*")] == [1, 2, 3, 4]
    for pattern in ("one\ntwo", r"one\ntwo", r"(?:one)\s+two"):
        assert await found(files, pattern) == []
    assert await found(files, "(?s)one.*") == [("x", 1, 1)]
    assert await found(files, r"\At") == [("x", 2, 1), ("x", 4, 1)]


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:(?R)|a)b",
        "(?0)a",
        "(a(?1)?)",
        "(?+1)(a)",
        "(a)(?-1)",
        r"\\(?R)",
        "(?P<x>a(?&x)?)",
        "(?<x>a)(?P>x)",
        "(?<x>a)(?P&x)",
        "a(?=b)",
        "a(?!b)",
        "(?<=a)b",
        "(?<!a)b",
        r"(a)\1",
        "(?P<x>a)(?P=x)",
        r"(?<x>a)\k<x>",
        "(?>a)b",
        "a++b",
        r"(?:a(?=(?:(a)|x)*))*[yz]",
    ],
)
async def test_what_re2_cannot_do_is_refused(files: Files, pattern: str) -> None:
    params = {"pattern": pattern}
    body = await files.refused("GET", "/files/search", 400, "PATTERN_NOT_SUPPORTED", params=params)
    assert "look-around" in body["message"]
    assert (await search(files, pattern, literal=True))["matches"] == []


async def test_what_only_looks_like_recursion_is_searched(files: Files) -> None:
    await files.write("x", "f(?R) aa1")
    assert await found(files, r"f\(?R") == []
    assert await found(files, r"\(\?R\)") == [("x", 1, 2)]
    assert await found(files, r"[(?R)] a") == [("x", 1, 5)]


def test_lines_looked_for_together_are_those_that_match_one_by_one(tmp_path: Path) -> None:
    check_patterns(random.Random(8), 600, tmp_path)  # noqa: S311 - the same each time


async def test_a_pattern_that_takes_for_ever_holds_up_nobody(files: Files) -> None:
    await files.write("x", "a" * 5000 + "b")
    slow = asyncio.create_task(search(files, r"(a*)*(a*)*(a*)*c"))
    worst = 0.0
    while not slow.done():
        started = time.monotonic()
        await files.client.get("/ping")
        worst = max(worst, time.monotonic() - started)
        await asyncio.sleep(0.02)
    answer = slow.result()
    assert answer["matches"] == []
    assert answer["reason"] in (None, "time")
    assert worst < TIME_LIMIT / 4


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<a>x)(?P<a", "a{2,1}", "x" * 1001])
async def test_patterns_that_are_none(files: Files, pattern: str) -> None:
    params = {"pattern": pattern}
    body = await files.refused("GET", "/files/search", 400, "INVALID_REQUEST", params=params)
    assert "pattern" in body["message"]


async def test_what_cannot_be_searched(files: Files) -> None:
    await files.refused("GET", "/files/search", 400, "MISSING_PARAMETER")
    for path, status, code in (
        ("missing", 404, "DIRECTORY_NOT_FOUND"),
        ("/etc", 403, "PATH_NOT_ALLOWED"),
    ):
        params = {"pattern": "x", "path": path}
        await files.refused("GET", "/files/search", status, code, params=params)
    params = {"pattern": "x", "glob": ""}
    await files.refused("GET", "/files/search", 400, "INVALID_REQUEST", params=params)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "x/y/a.py", True),
        ("x/*.py", "x/a.py", True),
        ("x/*.py", "x/y/a.py", False),
        ("x/**/*.py", "x/a.py", True),
        ("x/**/*.py", "x/y/z/a.py", True),
        ("**/y/**", "x/y/z/a.py", True),
        ("**/y/**", "x/a.py", False),
        ("/x/a", "x/a", True),
        ("[!a]*", "b", True),
        ("[!a]*", "a", False),
        ("?", "é", True),
        ("a\nb", "a\nb", True),
        ("**", "anything/at/all", True),
        ("x/**", "x", True),
    ],
)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    assert Glob(pattern).matches(path) is matches


def test_globs_take_no_time() -> None:
    started = time.process_time()
    assert not Glob("*a" * 400).matches("a" * 255)
    assert not Glob("**/a/" * 150 + "b").matches("a/" * 1000 + "c")
    assert time.process_time() - started < 5
    for pattern in ("", "x" * 1001, "a\0"):
        with pytest.raises(InvalidRequest):
            Glob(pattern)


def test_names_are_shown_and_read_back() -> None:
    check_names(random.Random(1), 4000)  # noqa: S311 - the same each time


def test_large_json_is_read_in_pieces_as_a_parser_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PIECE", 20)
    check_json(random.Random(5), 4000)  # noqa: S311 - the same each time
