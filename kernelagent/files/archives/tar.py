"""Reading a tar archive piece by piece, as it comes; nothing in it is trusted.

The standard library's reader takes an extended header of any size into memory, one after the other
by recursion, and asks for a file to read from.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import zlib
from collections.abc import Generator

from kernelagent.errors import ArchiveRefused
from kernelagent.files.archives.staging import RATIO_FROM, Staging

_BLOCK = 512
# Longer names than a path may have, and the attributes of files.
_LARGEST_HEADER = 256 * 1024
# Headers before one entry: a global one, an extended one, GNU's long name and long link.
_MOST_HEADERS = 8
_PIECE = 1024 * 1024
# The zeros that programs fill their last record with.
_LONGEST_END = 1024 * 1024

# Takes data, None at the end; yields when it needs more.
Reader = Generator[None, bytes | None, None]

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class _Buffer:
    """What has come and is not used yet."""

    def __init__(self) -> None:
        self._data = bytearray()

    def read(self, size: int) -> Generator[None, bytes | None, bytes]:
        """Exactly `size` bytes."""
        while len(self._data) < size:
            yield from self._more()
        return self._cut(size)

    def some(self, most: int) -> Generator[None, bytes | None, bytes]:
        """At least one byte, and at most `most`."""
        if not self._data:
            yield from self._more()
        return self._cut(min(most, len(self._data)))

    def _cut(self, size: int) -> bytes:
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    def _more(self) -> Generator[None, bytes | None, None]:
        data = yield
        if data is None:
            raise ArchiveRefused("the archive is cut off")
        self._data += data


def read_tar(staging: Staging) -> Reader:
    """Unpacks a tar archive; raises ArchiveRefused, OSError."""
    buffer = _Buffer()
    named: dict[str, str] = {}
    standing: dict[str, str] = {}
    headers = 0
    while True:
        block = yield from buffer.read(_BLOCK)
        if not any(block):
            break
        try:
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise ArchiveRefused(f"this is no tar archive, or a broken one: {error}") from None
        if entry.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            content = yield from _header(buffer, entry)
            (standing if entry.type == tarfile.XGLTYPE else named).update(_records(content))
        elif entry.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            content = yield from _header(buffer, entry)
            key = "path" if entry.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            named[key] = os.fsdecode(content.split(b"\0", 1)[0])
        else:
            _apply(entry, {**standing, **named})
            named, headers = {}, 0
            yield from _entry(staging, buffer, entry)
            continue
        headers += 1
        if headers > _MOST_HEADERS:
            raise ArchiveRefused("the archive has too many headers before one entry")
    if named:
        raise ArchiveRefused("the archive has a header without its entry")
    rest = _LONGEST_END
    while (data := (yield)) is not None:
        rest -= len(data)
        if rest < 0:
            raise ArchiveRefused("the archive has data after its end")


def _header(buffer: _Buffer, entry: tarfile.TarInfo) -> Generator[None, bytes | None, bytes]:
    if not 0 <= entry.size <= _LARGEST_HEADER:
        raise ArchiveRefused(f"the archive has a header larger than {_LARGEST_HEADER} bytes")
    padded = yield from buffer.read(_padded(entry.size))
    return padded[: entry.size]


def _records(content: bytes) -> dict[str, str]:
    """The records of an extended header: length, space, key=value, newline."""
    found: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:
        space = content.find(b" ", position, position + 12)
        digits = content[position:space]
        if space < 0 or not digits.isdigit():
            raise ArchiveRefused("the archive has a broken extended header")
        end = position + int(digits)
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not position < space < end <= len(content) or not equals or content[end - 1] != 10:
            raise ArchiveRefused("the archive has a broken extended header")
        found[os.fsdecode(key)] = os.fsdecode(value)
        position = end
    return found


def _apply(entry: tarfile.TarInfo, records: dict[str, str]) -> None:
    if entry.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in records):
        raise ArchiveRefused("sparse files in archives are not unpacked")
    entry.name = records.get("path", entry.name)
    entry.linkname = records.get("linkpath", entry.linkname)
    try:
        entry.size = int(records.get("size", entry.size))
        entry.mtime = float(records.get("mtime", entry.mtime))
    except ValueError:
        raise ArchiveRefused("the archive has a broken extended header") from None
    if entry.size < 0:
        raise ArchiveRefused("the archive has an entry with a negative size")


def _entry(staging: Staging, buffer: _Buffer, entry: tarfile.TarInfo) -> Reader:
    is_old_directory = entry.type == tarfile.AREGTYPE and entry.name.endswith("/")
    if entry.type == tarfile.DIRTYPE or is_old_directory:
        staging.directory(entry.name, entry.mode, entry.mtime)
    elif entry.type == tarfile.SYMTYPE:
        staging.link(entry.name, entry.linkname)
    elif entry.type == tarfile.LNKTYPE:
        staging.second_name(entry.name, entry.linkname, entry.mode, entry.mtime)
    elif entry.type in _FILES:
        staging.begin_file(entry.name, entry.mode, entry.mtime)
        rest = entry.size
        while rest:
            data = yield from buffer.some(min(rest, _PIECE))
            staging.write(data)
            rest -= len(data)
        staging.end_file()
        yield from buffer.read(_padded(entry.size) - entry.size)
        return
    else:
        raise ArchiveRefused(
            "the archive has an entry that is no file, directory or link",
            details={"type": entry.type.decode("latin-1")},
        )
    rest = _padded(max(entry.size, 0)) if entry.type != tarfile.LNKTYPE else 0
    if rest > _LARGEST_HEADER:
        raise ArchiveRefused("the archive has contents where none belong")
    yield from buffer.read(rest)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def read_gzip(reader: Reader, ratio: int) -> Reader:
    """Unpacks what `reader` takes, which has been begun, to at most `ratio` times the size."""
    taken = given = 0
    inflate = zlib.decompressobj(wbits=31)
    while True:
        data = yield
        if data is None:
            if not inflate.eof:
                raise ArchiveRefused("the archive is cut off")
            with contextlib.suppress(StopIteration):
                reader.send(None)
            return
        taken += len(data)
        while data:
            if inflate.eof:
                if not data.strip(b"\0"):
                    break  # padding
                inflate = zlib.decompressobj(wbits=31)
            try:
                piece = inflate.decompress(data, _PIECE)
            except zlib.error as error:
                raise ArchiveRefused(f"this is no gzip data, or broken: {error}") from None
            data = inflate.unconsumed_tail or inflate.unused_data
            given += len(piece)
            if given > max(RATIO_FROM, taken * ratio):
                raise ArchiveRefused(
                    f"the archive unpacks to more than {ratio} times its size",
                    details={"limit": ratio},
                )
            if piece:
                reader.send(piece)
