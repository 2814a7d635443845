"""Reading a zip archive, whose list of contents is at its end; nothing in it is trusted."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import stat
import struct
import zipfile
import zlib

from kernelagent.errors import ArchiveRefused
from kernelagent.files.archives.staging import ArchiveLimits, Staging

_PIECE = 1024 * 1024
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LONGEST_COMMENT = 65535
# Of one entry in the list: 46 bytes, the name, and what else belongs to it.
_LIST_ENTRY = 1024
_LONGEST_TARGET = 4096
# LZMA takes as much memory as an archive says.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    LookupError,
    struct.error,
)


def read_zip(file: io.BufferedReader, staging: Staging, limits: ArchiveLimits) -> None:
    """Unpack a zip archive; raises ArchiveRefused, OSError."""
    size = file.seek(0, os.SEEK_END)
    _check_list(file, size, limits)
    staging.consumed = size
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                _read_entry(archive, info, staging)
    except _BROKEN as error:
        raise ArchiveRefused(f"this is no zip archive, or a broken one: {error}") from None


def _check_list(file: io.BufferedReader, size: int, limits: ArchiveLimits) -> None:
    """Refuse a list that is too long before it is read as a whole."""
    tail_size = min(size, _END.size + _LONGEST_COMMENT + _LOCATOR_64.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise ArchiveRefused("this is no zip archive, or it is cut off")
    fields = _END.unpack_from(tail, at)
    entries, list_size = fields[4], fields[5]
    if at >= _LOCATOR_64.size and tail[at - _LOCATOR_64.size :].startswith(b"PK\x06\x07"):
        told = _LOCATOR_64.unpack_from(tail, at - _LOCATOR_64.size)[2]
        # Readers differ in which of the two they believe.
        usual = size - tail_size + at - _LOCATOR_64.size - _END_64.size
        for position in (told, usual):
            if not 0 <= position <= size - _END_64.size:
                raise ArchiveRefused("this is no zip archive, or a broken one")
            file.seek(position)
            fields = _END_64.unpack(file.read(_END_64.size))
            entries, list_size = max(entries, fields[7]), max(list_size, fields[8])
    if entries > limits.entries or list_size > limits.entries * _LIST_ENTRY:
        raise ArchiveRefused(
            f"the archive has more than {limits.entries} entries",
            details={"limit": limits.entries},
        )


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, staging: Staging) -> None:
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if info.flag_bits & 0x1:
        raise ArchiveRefused("encrypted archives are not unpacked")
    if info.is_dir():
        staging.directory(info.filename, stat.S_IMODE(mode) or 0o755, _modified(info))
        return
    if info.compress_type not in _METHODS:
        raise ArchiveRefused("the archive is compressed in another way than deflate")
    if kind == stat.S_IFLNK:
        with archive.open(info) as content:
            target = content.read(_LONGEST_TARGET + 1)
        staging.link(info.filename, os.fsdecode(target))
        return
    if kind not in (0, stat.S_IFREG):
        raise ArchiveRefused("the archive has an entry that is no file, directory or link")
    staging.begin_file(info.filename, stat.S_IMODE(mode) or 0o644, _modified(info))
    with archive.open(info) as content:
        while data := content.read(_PIECE):
            staging.write(data)
    staging.end_file()


def _modified(info: zipfile.ZipInfo) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.datetime(*info.date_time, tzinfo=datetime.UTC).timestamp()
    return None
