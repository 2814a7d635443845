"""Archives of a directory, made piece by piece while they are sent."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator

from kernelagent.files.fs import names
from kernelagent.files.fs.tree import Entry, Omissions, walk

# What could not be read is told in here, the last entry of an archive.
LEFT_OUT = "KERNELAGENT-LEFT-OUT.txt"

MEDIA_TYPES = {
    "tar": "application/x-tar",
    "tar.gz": "application/gzip",
    "zip": "application/zip",
}

_PIECE = 256 * 1024
_BLOCK = 512
_RECORD = 20 * _BLOCK
_GZIP = 31
_EARLIEST_ZIP = (1980, 1, 1, 0, 0, 0)
_LATEST_ZIP = (2107, 12, 31, 23, 59, 58)

Check = Callable[[os.stat_result], bool]


def archive(kind: str, directory: int, is_closed: Check, may_read: Check) -> Iterator[bytes]:
    """The pieces of an archive of `directory`, which stays open until the last."""
    omissions = Omissions()
    entries = _entries(directory, is_closed, omissions)
    make = _zip if kind == "zip" else _tar
    pieces = make(entries, may_read, omissions)
    return _gzip(pieces) if kind == "tar.gz" else pieces


def _entries(directory: int, is_closed: Check, omissions: Omissions) -> Iterator[Entry]:
    # Not before it begins: what has not begun is never asked to close anything.
    yield from walk(os.dup(directory), is_closed, omissions)


def _tar(entries: Iterator[Entry], may_read: Check, omissions: Omissions) -> Iterator[bytes]:
    size = 0
    try:
        for entry in entries:
            for piece in _tar_entry(entry, may_read, omissions):
                size += len(piece)
                yield piece
    finally:
        entries.close()  # type: ignore[attr-defined]
    report = _report(omissions)
    if report:
        info = tarfile.TarInfo(LEFT_OUT)
        info.size, info.mtime = len(report), int(time.time())
        last = _header(info) + report + bytes(-len(report) % _BLOCK)
        size += len(last)
        yield last
    yield bytes(2 * _BLOCK + -(size + 2 * _BLOCK) % _RECORD)


def _tar_entry(entry: Entry, may_read: Check, omissions: Omissions) -> Iterator[bytes]:
    facts = entry.facts
    info = tarfile.TarInfo(entry.path)
    info.mode, info.mtime = stat.S_IMODE(facts.st_mode) & 0o777, int(facts.st_mtime)
    if entry.is_directory:
        info.type = tarfile.DIRTYPE
        yield _header(info)
    elif entry.is_link:
        try:
            info.type, info.linkname = tarfile.SYMTYPE, entry.target()
        except OSError:
            omissions.add(entry.path)
            return
        yield _header(info)
    elif entry.is_file:
        file = _open(entry, may_read, omissions)
        if file is None:
            return
        try:
            info.size = os.fstat(file).st_size
            yield _header(info)
            rest = info.size
            while rest and (data := os.read(file, min(rest, _PIECE))):
                rest -= len(data)
                yield data
            while rest:  # it has become shorter in the meantime
                data = bytes(min(rest, _PIECE))
                rest -= len(data)
                yield data
            yield bytes(-info.size % _BLOCK)
        finally:
            os.close(file)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _gzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    deflate = zlib.compressobj(6, wbits=_GZIP)
    try:
        for piece in pieces:
            yield deflate.compress(piece)
        yield deflate.flush()
    finally:
        pieces.close()  # type: ignore[attr-defined]


class _Outlet(io.RawIOBase):
    """Takes what a zip archive consists of, to be sent."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self.taken += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self.taken)
        self.taken.clear()
        return data


def _zip(entries: Iterator[Entry], may_read: Check, omissions: Omissions) -> Iterator[bytes]:
    outlet = _Outlet()
    target = zipfile.ZipFile(outlet, "w", zipfile.ZIP_DEFLATED)
    try:
        for entry in entries:
            for _ in _zip_entry(target, entry, may_read, omissions):
                yield outlet.take()
        report = _report(omissions)
        if report:
            target.writestr(LEFT_OUT, report)
        target.close()
        yield outlet.take()
    finally:
        entries.close()  # type: ignore[attr-defined]


def _zip_entry(
    target: zipfile.ZipFile, entry: Entry, may_read: Check, omissions: Omissions
) -> Iterator[None]:
    modified = time.gmtime(max(entry.facts.st_mtime, 0))[:6]
    # A zip archive has no way to say bytes that are no UTF-8.
    path = names.shown(entry.path)
    info = zipfile.ZipInfo(path, min(max(modified, _EARLIEST_ZIP), _LATEST_ZIP))
    info.create_system = 3
    info.external_attr = entry.facts.st_mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    if entry.is_directory:
        info.filename += "/"
        info.external_attr |= 0x10
        target.writestr(info, b"")
        yield
    elif entry.is_link:
        try:
            target.writestr(info, os.fsencode(entry.target()))
        except OSError:
            omissions.add(entry.path)
        yield
    elif entry.is_file:
        file = _open(entry, may_read, omissions)
        if file is None:
            return
        try:
            with target.open(info, "w", force_zip64=True) as member:
                while data := os.read(file, _PIECE):
                    member.write(data)
                    yield
        finally:
            os.close(file)
        yield


def _open(entry: Entry, may_read: Check, omissions: Omissions) -> int | None:
    try:
        file = entry.open()
    except FileNotFoundError:
        return None
    except OSError:
        omissions.add(entry.path)
        return None
    facts = os.fstat(file)
    if stat.S_ISREG(facts.st_mode) and may_read(facts):
        return file
    os.close(file)
    omissions.add(entry.path)
    return None


def _report(omissions: Omissions) -> bytes:
    if not omissions.count:
        return b""
    lines = [f"{omissions.count} entries could not be read and are left out:", *omissions.paths]
    return os.fsencode("\n".join(lines) + "\n")
