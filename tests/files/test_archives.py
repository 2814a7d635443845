"""Archives of directories: what is in them, and what becomes of those that are not sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import FileLimit
from kernelagent.files.answers import archive_answer
from kernelagent.files.archives.staging import ArchiveLimits
from kernelagent.files.archives.writing import archive
from kernelagent.files.fs.paths import Roots
from kernelagent.files.service import FileService
from tests.files.archives import (
    KINDS,
    facts,
    make_tree,
    unpack,
)
from tests.files.conftest import Files
from tests.waiting import until


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

    def is_collected() -> bool:
        gc.collect()
        return not is_open()

    await until(is_collected)
    await service.close()


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
