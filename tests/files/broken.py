"""Input at random: forms and archives that are damaged, patterns, names and JSON of all kinds."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernelagent.errors import InvalidRequest
from kernelagent.files import bulk
from kernelagent.files.fs import names
from kernelagent.files.search.patterns import Pattern
from kernelagent.files.search.search import TextSearch
from tests.files.archives import LINK, tar, zipped


def part(name: str | None, content: bytes, filename: str | None = None, **headers: str) -> bytes:
    disposition = "form-data"
    if name is not None:
        disposition += f'; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = [f"Content-Disposition: {disposition}"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def form(*parts: bytes, boundary: str = "boundary", end: bool = True) -> bytes:
    mark = b"--" + boundary.encode()
    body = b"".join(mark + b"\r\n" + piece + b"\r\n" for piece in parts)
    return body + (mark + b"--\r\n" if end else b"")


def kind(boundary: str = "boundary") -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}


async def send_broken_forms(client: httpx.AsyncClient, rng: random.Random, count: int) -> None:
    """Upload forms that are damaged at random: they are understood or refused."""
    whole = form(part("path", b"file"), part("file", os.urandom(3000), "x", Content_Type="a/b"))
    for _ in range(count):
        body = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(body))
            change = rng.randrange(3)
            if change == 0:
                del body[at : at + rng.randrange(1, 60)]
            elif change == 1:
                body[at] = rng.randrange(256)
            else:
                body[at:at] = rng.choice([b"\r\n", b"--", b"--boundary", b"\0", b'"', b"\xff"])
        response = await client.post("/files/upload", content=bytes(body), headers=kind())
        assert response.status_code in (200, 400), response.text
        assert response.json().get("code", "") in (
            "",
            "INVALID_REQUEST",
            "INVALID_PATH",
            "MISSING_PARAMETER",
        )


async def send_broken_archives(
    client: httpx.AsyncClient, workspace: Path, rng: random.Random, count: int
) -> None:
    """Send archives that are damaged at random: they are unpacked or refused as a whole."""
    wholes = [
        tar(("a/b", b"content" * 50), ("é" * 60, b"x"), ("l", {**LINK, "linkname": "a"})),
        gzip.compress(tar(("a/b", b"content" * 50))),
        zipped(("a/b", b"content" * 50), ("c", b"")),
    ]
    for number in range(count):
        whole = bytearray(wholes[number % 3])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(whole))
            if rng.random() < 0.3:
                del whole[at : at + rng.randrange(1, 600)]
            else:
                whole[at : at + 1] = bytes([rng.randrange(256)])
            whole = whole or bytearray(b"x")
        response = await client.post(
            "/files/archive", params={"path": f"out{number}"}, content=bytes(whole)
        )
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            assert response.json()["code"] in ("ARCHIVE_REFUSED", "INVALID_PATH")
            assert not (workspace / f"out{number}").exists()


def check_patterns(rng: random.Random, count: int, directory: Path) -> None:
    """See that lines that are looked for together are those that match one by one."""
    pieces = [*"abcA()|*+?.^${}[]-# ,~&", "[ab]", "[^a]", "{1,2}", "{0}", r"\.", r"\w", r"\b"]
    pieces += [
        r"\n",
        "(?:",
        r"\\",
        r"\x61",
        r"\A",
        r"\z",
        "(a|b)",
        "*?",
        r"\(",
        "[[:alpha:]]",
        r"\s",
    ]
    path, used = directory / "lines", 0
    while used < count:
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 7)))
        ignore_case = rng.random() < 0.3
        try:
            pattern = Pattern(text, literal=False, ignore_case=ignore_case)
        except InvalidRequest:
            continue
        used += 1
        content = "".join(rng.choice("abcABC.-{}1,2|[]()#&\n\né") for _ in range(40))
        path.write_text(content)
        search = TextSearch(text, literal=False, ignore_case=ignore_case, glob=None, limit=100)
        with path.open("rb") as file:
            search.file(file.fileno(), "lines")
        lines = content.removesuffix("\n").split("\n") if content else []
        expected = [n for n, line in enumerate(lines, 1) if pattern.search(line.encode())]
        assert [match["line"] for match in search.matches] == expected, (text, content)


def check_names(rng: random.Random, count: int) -> None:
    """See that names that are shown lead back to what they are, and to nothing else."""
    alphabet = [b"a", b"\xff", b"\x80", "é".encode(), "\uef80".encode(), "\uefff".encode(), b"\xee"]
    seen: dict[str, bytes] = {}
    for _ in range(count):
        raw = b"".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 8)))
        shown = names.shown(raw.decode("utf-8", "surrogateescape"))
        shown.encode()
        assert names.real(shown).encode("utf-8", "surrogateescape") == raw
        assert seen.setdefault(shown, raw) == raw


def check_json(rng: random.Random, count: int) -> None:
    """See that large JSON, of which here all is large, is read as a parser reads it."""
    letters = ['"', "\\", "\n", "a", "u", "d83d", "\U0001f600", "é", "€", "\0", "{", "}", "[", ","]
    others: list[Any] = [None, 1, 'a\\"b', [1, {"content": "no"}], {"content": [[]]}, True, ""]
    for _ in range(count):
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
