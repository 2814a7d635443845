"""Archives, both ways: what goes in comes out, and nothing in them is trusted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import ArchiveRefused, FileLimit
from kernelagent.files import staging as stagings
from kernelagent.files.answers import archive_answer
from kernelagent.files.archives import archive
from kernelagent.files.paths import Place, Roots
from kernelagent.files.service import FileService
from kernelagent.files.staging import ArchiveLimits, Staging
from tests.files.conftest import ARCHIVE_LIMIT, ENTRY_LIMIT, UPLOAD_LIMIT, Files

KINDS = {"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}
BINARY = os.urandom(600_000)


def make_tree(base: Path) -> None:
    (base / "a" / "empty").mkdir(parents=True)
    (base / "a" / "text").write_text("text")
    (base / "a" / "binary").write_bytes(BINARY)
    (base / "a" / "script").write_text("#!/bin/sh")
    (base / "a" / "script").chmod(0o755)
    (base / "a" / "nothing").write_bytes(b"")
    (base / "a" / "link").symlink_to("text")
    (base / "a" / ("n" * 150)).mkdir()
    (base / "a" / ("n" * 150) / ("é" * 100)).write_text("long")
    os.utime(base / "a" / "text", (1_000_000_000, 1_000_000_000))


def facts(base: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(base.rglob("*")):
        mode = path.lstat().st_mode
        content: Any = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(base))] = (stat.S_IFMT(mode), mode & 0o111, content)
    return found


async def unpack(files: Files, archive: bytes, path: str = "out", **params: Any) -> Any:
    params = {"path": path, **params}
    return await files.ask("POST", "/files/archive", params=params, content=archive)


async def refused(
    files: Files, archive: bytes, status: int = 400, code: str = "ARCHIVE_REFUSED", **params: Any
) -> Any:
    """The error; and nothing was unpacked."""
    before = sorted(files.workspace.rglob("*"))
    params = {"path": "out", **params}
    body = await files.refused(
        "POST", "/files/archive", status, code, params=params, content=archive
    )
    assert sorted(files.workspace.rglob("*")) == before
    return body


@pytest.mark.parametrize("kind", KINDS)
async def test_there_and_back(files: Files, kind: str) -> None:
    make_tree(files.workspace)
    response = await files.client.get("/files/archive", params={"path": "a", "format": kind})
    assert response.status_code == 200
    assert response.headers["content-type"] == KINDS[kind]
    assert response.headers["content-disposition"] == f'attachment; filename="a.{kind}"'
    answer = await unpack(files, response.content)
    assert answer["entries"] == 8
    assert facts(files.workspace / "out") == facts(files.workspace / "a")
    modified = (files.workspace / "out" / "text").stat().st_mtime
    assert abs(modified - 1_000_000_000) <= 2
    # Once more, over what is there.
    (files.workspace / "out" / "text").write_text("changed")
    (files.workspace / "out" / "own").write_text("own")
    options = {"path": "out", "overwrite": False}
    await files.refused(
        "POST",
        "/files/archive",
        409,
        "FILE_ALREADY_EXISTS",
        params=options,
        content=response.content,
    )
    assert (files.workspace / "out" / "text").read_text() == "changed"
    await unpack(files, response.content)
    assert (files.workspace / "out" / "text").read_text() == "text"
    assert (files.workspace / "out" / "own").read_text() == "own"


async def test_others_read_what_we_make(files: Files, tmp_path: Path) -> None:
    import subprocess

    make_tree(files.workspace)
    for kind in KINDS:
        content = (await files.client.get(f"/files/archive?path=a&format={kind}")).content
        archive = tmp_path / f"archive.{kind}"
        archive.write_bytes(content)
        out = tmp_path / kind
        out.mkdir()
        if kind == "zip":
            with zipfile.ZipFile(archive) as opened:
                assert opened.testzip() is None
                assert opened.read("script") == b"#!/bin/sh"
            continue
        subprocess.run(["tar", "-xf", str(archive), "-C", str(out)], check=True)  # noqa: ASYNC221
        assert facts(out) == facts(files.workspace / "a")


def tar(*entries: tuple[str, Any], format: int = tarfile.PAX_FORMAT, **changes: Any) -> bytes:
    """A tar of (name, contents); a dict instead of contents changes the entry."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            data = b""
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
            else:
                data = content
                info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(*entries: tuple[str, bytes], mode: int = 0, **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content, **options)
    return out.getvalue()


LINK = {"type": tarfile.SYMTYPE}
HARD = {"type": tarfile.LNKTYPE}


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
    import random

    rng = random.Random(3)  # noqa: S311 - the same each time
    wholes = [
        tar(("a/b", b"content" * 50), ("é" * 60, b"x"), ("l", {**LINK, "linkname": "a"})),
        gzip.compress(tar(("a/b", b"content" * 50))),
        zipped(("a/b", b"content" * 50), ("c", b"")),
    ]
    for number in range(240):
        whole = bytearray(wholes[number % 3])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(whole))
            if rng.random() < 0.3:
                del whole[at : at + rng.randrange(1, 600)]
            else:
                whole[at : at + 1] = bytes([rng.randrange(256)])
            whole = whole or bytearray(b"x")
        response = await files.client.post(
            "/files/archive", params={"path": f"out{number}"}, content=bytes(whole)
        )
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            assert response.json()["code"] in ("ARCHIVE_REFUSED", "INVALID_PATH")
            assert not (files.workspace / f"out{number}").exists()


async def test_too_large_an_archive(files: Files) -> None:
    await refused(files, os.urandom(UPLOAD_LIMIT + 1), 413, "BODY_TOO_LARGE")
    await refused(files, b"", 400, "MISSING_PARAMETER")
    params = {"path": "x", "format": "rar"}
    await files.refused("POST", "/files/archive", 400, "INVALID_REQUEST", params=params)
    await files.refused("GET", "/files/archive?format=rar", 400, "INVALID_REQUEST")
    await files.refused("GET", "/files/archive?path=missing", 404, "DIRECTORY_NOT_FOUND")
    await files.refused("POST", "/files/archive", 400, "MISSING_PARAMETER", content=b"x")


async def test_an_archive_holds_nothing_from_outside(files: Files) -> None:
    (files.workspace / "a").mkdir()
    (files.workspace / "a" / "link").symlink_to(files.outside / "secret")
    (files.workspace / "a" / "directory").symlink_to(files.outside)
    for kind in KINDS:
        content = (await files.client.get(f"/files/archive?path=a&format={kind}")).content
        if kind == "tar.gz":
            content = gzip.decompress(content)
        assert b"SECRET" not in content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["refused", "cancelled", "cancelled at once", "never sent"])
async def test_a_download_that_does_not_begin_leaves_nothing_open(
    tmp_path: Path, kind: str, way: str
) -> None:
    service = FileService(Roots(tmp_path, []), ArchiveLimits(1, 1), most_operations=1)

    def is_open() -> bool:
        found = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(descriptor.readlink())
        return tmp_path in found

    sending = asyncio.Event()

    async def never(*_: Any) -> Any:
        sending.set()
        await asyncio.Event().wait()

    directory = await service.open_tree(".")
    pieces = archive(kind, directory.descriptor, lambda _: False, lambda _: True)
    response = archive_answer(service.threads, pieces, directory, kind, "x")
    del directory, pieces
    assert is_open()
    if way == "refused":
        with service.threads.operation(), pytest.raises(FileLimit):
            await response({}, never, never)
    elif way != "never sent":
        task = asyncio.ensure_future(response({}, never, never))
        if way == "cancelled":
            await sending.wait()
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
    if way in ("never sent", "cancelled at once"):
        del response
    async with asyncio.timeout(20):
        while is_open():
            gc.collect()
            await asyncio.sleep(0.02)
    await service.close()


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


@pytest.mark.parametrize("path", ["", ".", "a/..", "./"])
async def test_the_name_of_the_workspace(files: Files, path: str) -> None:
    (files.workspace / "a").mkdir()
    response = await files.client.get("/files/archive", params={"path": path})
    assert response.headers["content-disposition"] == 'attachment; filename="workspace.tar.gz"'


async def test_what_is_left_out_is_told(files: Files) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's server mistrusts its own user's hard links")
    (files.workspace / "a").mkdir()
    (files.workspace / "a" / "file").write_text("x")
    os.link(files.outside / "secret", files.workspace / "a" / "hard")
    for kind in KINDS:
        response = await files.client.get(f"/files/archive?path=a&format={kind}")
        content = io.BytesIO(response.content)
        if kind == "zip":
            with zipfile.ZipFile(content) as archive:
                names, told = archive.namelist(), archive.read("KERNELAGENT-LEFT-OUT.txt")
        else:
            with tarfile.open(fileobj=content) as opened:
                names = opened.getnames()
                member: Any = opened.extractfile("KERNELAGENT-LEFT-OUT.txt")
                told = member.read()
        assert names == ["file", "KERNELAGENT-LEFT-OUT.txt"]
        assert told.splitlines()[1:] == [b"hard"]
