"""Text search: matches, limits, patterns that take for ever, and the small parts of /files."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from kernelagent.errors import InvalidRequest
from kernelagent.files import bulk, names
from kernelagent.files.globs import Glob
from kernelagent.files.searching import TIME_LIMIT
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


async def test_long_lines_are_cut_around_the_match(files: Files) -> None:
    await files.write("x", "a" * 100_000 + "needle" + "b" * 100_000)
    (match,) = (await search(files, "needle"))["matches"]
    assert match["column"] == 100_001
    assert len(match["text"]) == 1000
    assert "needle" in match["text"]


async def test_empty_matches_and_matches_over_lines(files: Files) -> None:
    await files.write("x", "one\ntwo\n\nthree")
    assert [line for _, line, _ in await found(files, "x*")] == [1, 2, 3, 4]
    assert await found(files, "one\ntwo") == [("x", 1, 1)]
    assert await found(files, "(?s)one.*") == [("x", 1, 1)]


async def test_a_pattern_that_takes_for_ever_holds_up_nobody(files: Files) -> None:
    import asyncio

    await files.write("x", "a" * 5000 + "b")
    slow = asyncio.create_task(search(files, r"(a*)*(a*)*(a*)*c\1"))
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
    started = time.monotonic()
    assert not Glob("*a" * 400).matches("a" * 255)
    assert not Glob("**/a/" * 150 + "b").matches("a/" * 1000 + "c")
    assert time.monotonic() - started < 5
    for pattern in ("", "x" * 1001, "a\0"):
        with pytest.raises(InvalidRequest):
            Glob(pattern)


def test_names_are_shown_and_read_back() -> None:
    rng = random.Random(1)  # noqa: S311 - the same each time
    alphabet = [b"a", b"\xff", b"\x80", "é".encode(), "\uef80".encode(), "\uefff".encode(), b"\xee"]
    seen: dict[str, bytes] = {}
    for _ in range(20_000):
        raw = b"".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 8)))
        shown = names.shown(raw.decode("utf-8", "surrogateescape"))
        shown.encode()
        assert names.real(shown).encode("utf-8", "surrogateescape") == raw
        assert seen.setdefault(shown, raw) == raw


def test_large_json_is_read_in_pieces_as_a_parser_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PIECE", 20)
    rng = random.Random(5)  # noqa: S311 - the same each time
    letters = ['"', "\\", "\n", "a", "u", "d83d", "\U0001f600", "é", "€", "\0", "{", "}", "[", ","]
    others: list[Any] = [None, 1, 'a\\"b', [1, {"content": "no"}], {"content": [[]]}, True, ""]
    for _ in range(20_000):
        content = "".join(rng.choice(letters) for _ in range(rng.randrange(60)))
        document = {
            key: content if key == "content" else rng.choice(others)
            for key in rng.sample(["path", "content", "x", "z"], 3)
        }
        ascii_only, indent = rng.random() < 0.5, rng.choice([None, 1])
        body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
        if "content" not in document:
            with pytest.raises(bulk.NotFlat):
                bulk.cut_string(body, b"content")
            continue
        small, place = bulk.cut_string(body, b"content")
        assert "".join(bulk.string_pieces(body, place)) == content
        assert json.loads(small) == {**document, "content": ""}
