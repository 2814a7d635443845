"""Archives as clients make and unpack them, good and bad."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tests.files.conftest import Files

KINDS = {"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}


BINARY = os.urandom(600_000)


LINK = {"type": tarfile.SYMTYPE}


HARD = {"type": tarfile.LNKTYPE}


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
