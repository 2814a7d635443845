"""Unpacking: nothing in an archive is trusted."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from pathlib import Path

import pytest

from kernelagent.errors import ArchiveRefused
from kernelagent.files.archives import staging as stagings
from kernelagent.files.archives.staging import ArchiveLimits, Staging
from kernelagent.files.fs.paths import Place
from tests.files.archives import (
    HARD,
    LINK,
    refused,
    tar,
    unpack,
    zipped,
)
from tests.files.conftest import UPLOAD_LIMIT, Files


@pytest.mark.parametrize(
    "archive",
    [
        tar(("../x", b"")),
        tar(("a/../../x", b"")),
        tar(("/etc/x", b"")),
        tar(("a/..", b"")),
        tar(("x", {**LINK, "linkname": "/etc/passwd"})),
        tar(("x", {**LINK, "linkname": "../secret"})),
        tar(("a/x", {**LINK, "linkname": "../../outside"})),
        tar(("x", {**LINK, "linkname": "a/../../secret"})),
        tar(("x", {**LINK, "linkname": "a/../b"})),
        tar(("a/x", {**LINK, "linkname": "../b/../c"})),
        tar(
            ("a/b/c/up", {**LINK, "linkname": "../../.."}),
            ("x", {**LINK, "linkname": "a/b/c/up/../../../outside/secret"}),
        ),
        tar(("x", {**LINK, "linkname": "."}), ("x/y", b"through a link")),
        tar(("x", {**LINK, "linkname": "y"}), ("x/y", b"through a link")),
        tar(("x", {**HARD, "linkname": "/etc/passwd"})),
        tar(("x", {**HARD, "linkname": "../outside/secret"})),
        tar(("x", {**HARD, "linkname": "missing"})),
        tar(("l", {**LINK, "linkname": "x"}), ("x", b""), ("h", {**HARD, "linkname": "l"})),
        tar(("x", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})),
        tar(("x", {"type": tarfile.BLKTYPE})),
        tar(("x", {"type": tarfile.FIFOTYPE})),
        tar(("x", b"a file"), ("x/y", b"in it")),
        tar(("x/y", b"a directory"), ("x", b"a file")),
        tar(("n" * 300, b"")),
        tar(("d/" * 150 + "x", b"")),
        zipped(("../x", b"")),
        zipped(("/etc/x", b"")),
        zipped(("x", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777),
        zipped(("x", b"../secret"), mode=stat.S_IFLNK | 0o777),
        zipped(("x", b""), mode=stat.S_IFIFO | 0o777),
        zipped(("x", b""), mode=stat.S_IFCHR | 0o777),
        zipped(("n" * 300, b"")),
    ],
)
async def test_what_leads_outside_or_is_no_file(files: Files, archive: bytes) -> None:
    await refused(files, archive)
    await refused(files, gzip.compress(archive) if archive[:2] != b"PK" else archive)


async def test_links_that_are_there_are_not_followed(files: Files) -> None:
    (files.workspace / "out").mkdir()
    (files.workspace / "out" / "x").symlink_to(files.outside)
    await refused(files, tar(("x/y", b"")), 409, "FILE_ALREADY_EXISTS")
    (files.workspace / "link").symlink_to(files.outside)
    await refused(files, tar(("y", b"")), 403, "PATH_NOT_ALLOWED", path="link")
    await refused(files, tar(("y", b"")), 403, "PATH_NOT_ALLOWED", path="../outside")
    # A link itself is replaced.
    await unpack(files, tar(("x", b"a file")))
    assert (files.workspace / "out" / "x").read_text() == "a file"


async def test_hard_links_become_files_of_their_own(files: Files) -> None:
    await unpack(files, tar(("a", b"content"), ("b/c", {**HARD, "linkname": "a"})))
    assert (files.workspace / "out" / "b" / "c").read_text() == "content"
    assert (files.workspace / "out" / "a").stat().st_nlink == 1


async def test_links_within_the_archive_are_kept(files: Files) -> None:
    targets = ("..", "../b", "./../../c/d", "e/./f")
    await unpack(
        files, tar(*((f"a/b/{n}", {**LINK, "linkname": t}) for n, t in enumerate(targets)))
    )
    made = files.workspace / "out" / "a" / "b"
    assert [os.readlink(made / str(n)) for n in range(4)] == list(targets)  # noqa: PTH115


def test_copies_for_hard_links_do_not_lift_the_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stagings, "RATIO_FROM", 0)
    (tmp_path / "out").mkdir()
    place = Place(os.open(tmp_path, os.O_PATH), "out", "out")
    staging = Staging(place, lambda _: False, ArchiveLimits(100, 10**6, ratio=3))
    staging.consumed = 1000
    staging.begin_file("a", 0o644, None)
    staging.write(bytes(1000))
    staging.end_file()
    for name in ("b", "c"):
        staging.second_name(name, "a", 0o644, None)
    with pytest.raises(ArchiveRefused):
        staging.second_name("d", "a", 0o644, None)
    staging.discard()
    place.close()


async def test_modes_of_directories(files: Files) -> None:
    """Those that no entry names are as any others; those that are named as they are named."""
    await unpack(files, zipped(("sub/deep/x", b"1")))
    out = files.workspace / "out"
    for path in (out, out / "sub", out / "sub" / "deep"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    directory = {"type": tarfile.DIRTYPE}
    archive = tar(
        ("late/x", b""),
        ("late", {**directory, "mode": 0o750}),
        ("kept", {**directory, "mode": 0o555}),
        ("kept/deep", {**directory, "mode": 0o511}),
        ("kept/deep/x", b""),
        ("sub", {**directory, "mode": 0o500}),
        ("sub/new", {**directory, "mode": 0o555}),
    )
    for base in ("fresh", "out"):
        await unpack(files, archive, base)
        found = {
            name: stat.S_IMODE((files.workspace / base / name).stat().st_mode)
            for name in ("late", "kept", "kept/deep", "sub", "sub/new")
        }
        # One that is there already stays as it is.
        sub = 0o500 if base == "fresh" else 0o755
        assert found == {
            "late": 0o750,
            "kept": 0o555,
            "kept/deep": 0o511,
            "sub": sub,
            "sub/new": 0o555,
        }


async def test_modes_lose_what_gives_rights(files: Files) -> None:
    await unpack(files, tar(("x", b""), mode=0o6777))
    assert stat.S_IMODE((files.workspace / "out" / "x").stat().st_mode) == 0o777


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_all_formats_of_tar(files: Files, format: int) -> None:
    name = "d/" * 40 + ("n" * 90 if format == tarfile.USTAR_FORMAT else "é" * 120)
    await unpack(files, tar((name, b"content"), ("./", {"type": tarfile.DIRTYPE}), format=format))
    assert (files.workspace / "out" / name).read_text() == "content"


async def test_a_refused_archive_leaves_no_directories(files: Files) -> None:
    await files.ask("POST", "/files/mkdir", json={"path": "there"})
    for archive_of in (b"garbage" * 1000, os.urandom(UPLOAD_LIMIT + 1), b""):
        for path in ("a/b/c", "there/d/e"):
            response = await files.client.post(
                "/files/archive", params={"path": path}, content=archive_of
            )
            assert response.status_code in (400, 413)
    assert [path.name for path in files.workspace.rglob("*")] == ["there"]
    await unpack(files, tar(("x", b"")), "a/b/c")
    assert (files.workspace / "a" / "b" / "c" / "x").exists()
