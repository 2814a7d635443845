"""Archives that are broken, or much larger than they look."""

from __future__ import annotations

import gzip
import os
import random
import struct
import tarfile
import zlib
from collections.abc import Callable

import pytest

from tests.files.archives import (
    HARD,
    refused,
    tar,
    zipped,
)
from tests.files.broken import send_broken_archives
from tests.files.conftest import ARCHIVE_LIMIT, ENTRY_LIMIT, UPLOAD_LIMIT, Files


def pax_bomb(size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.USTAR_FORMAT) + b"a" * 2**20


def many_headers() -> bytes:
    content = b"14 comment=ab\n"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    header = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(512 - len(content))
    return header * 2000 + tar(("x", b""))


def sparse() -> bytes:
    return tar(("x", {"pax_headers": {"GNU.sparse.major": "1"}}))


def records(content: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0") + tar(("x", b""))


def zip_with_list_of(count: int) -> bytes:
    """A small zip that says it has many entries."""
    return zipped(("x", b""))[:-22] + struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, count, count, 0, 0, 0
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: tar(*((f"f{n}", b"") for n in range(ENTRY_LIMIT + 1))),
        lambda: zipped(*((f"f{n}", b"") for n in range(ENTRY_LIMIT + 1))),
        lambda: zip_with_list_of(60_000),
        lambda: gzip.compress(tar(("x", bytes(ARCHIVE_LIMIT + 1)))),
        lambda: zipped(("x", bytes(ARCHIVE_LIMIT + 1))),
        lambda: zipped(*((f"f{n}", bytes(2**20)) for n in range(20))),
        lambda: gzip.compress(
            tar(("a", bytes(2**20)), *((f"h{n}", {**HARD, "linkname": "a"}) for n in range(20)))
        ),
        # Directories that are no entries count as well.
        lambda: tar(*((f"{n}/" + "d/" * 60 + "f", b"") for n in range(4))),
        lambda: pax_bomb(8 * 2**30 - 1),
        lambda: pax_bomb(2**20),
        many_headers,
        sparse,
        lambda: records(b"5 a=b"),
        lambda: records(b"99 path=x\n"),
        lambda: records(b"x path=x\n"),
        lambda: records(b"0 path=x\n"),
        lambda: records(b"11 size=-1\n"),
        lambda: records(b"10 size=x\n"),
        lambda: records(b"12 mtime=aa\n"),
        lambda: gzip.compress(tar(("x", b"")) + bytes(3 * 2**20)),
        lambda: tar(("x", b"abc" * 1000))[:1500],
        lambda: tar(("x", b"abc" * 1000))[:3584],
        lambda: gzip.compress(tar(("x", b"abc" * 1000)))[:-9],
        lambda: gzip.compress(tar(("x", b"abc" * 1000)))[:-4] + b"1234",
        lambda: gzip.compress(b"not a tar" * 100),
        lambda: zipped(("x", b"abc" * 1000))[:-5],
        lambda: zipped(("x", os.urandom(2000)))[200:],
        lambda: b"garbage" * 1000,
        lambda: b"PK garbage" * 1000,
        lambda: b"\x1f\x8b" + os.urandom(2000),
        lambda: b"x",
        lambda: zipped(("x", b"abc" * 1000)).replace(
            zlib.crc32(b"abc" * 1000).to_bytes(4, "little"), b"1234"
        ),
    ],
)
async def test_bombs_and_broken_archives(files: Files, make: Callable[[], bytes]) -> None:
    archive = make()
    assert len(archive) < UPLOAD_LIMIT
    await refused(files, archive)
    (files.workspace / "out").mkdir()
    (files.workspace / "out" / "old").write_text("old")
    await refused(files, archive)


async def test_broken_archives_at_random(files: Files) -> None:
    """Some of them: `make prove broken_input` sends thousands."""
    rng = random.Random(3)  # noqa: S311 - the same each time
    await send_broken_archives(files.client, files.workspace, rng, 60)


async def test_too_large_an_archive(files: Files) -> None:
    await refused(files, os.urandom(UPLOAD_LIMIT + 1), 413, "BODY_TOO_LARGE")
    await refused(files, b"", 400, "MISSING_PARAMETER")
    params = {"path": "x", "format": "rar"}
    await files.refused("POST", "/files/archive", 400, "INVALID_REQUEST", params=params)
    await files.refused("GET", "/files/archive?format=rar", 400, "INVALID_REQUEST")
    await files.refused("GET", "/files/archive?path=missing", 404, "DIRECTORY_NOT_FOUND")
    await files.refused("POST", "/files/archive", 400, "MISSING_PARAMETER", content=b"x")
