"""Files and archives that come in a request's body, written to disk while they come."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from kernelagent.errors import BodyTooLarge, InvalidRequest, MissingParameter
from kernelagent.files.archives.staging import Staging
from kernelagent.files.archives.tar import Reader, read_gzip, read_tar
from kernelagent.files.archives.zips import read_zip
from kernelagent.files.body import Body
from kernelagent.files.fs import names
from kernelagent.files.fs.draft import Draft
from kernelagent.files.fs.paths import Place
from kernelagent.files.service import DIRECTORY_MODE, FileService

# How much is written at a time.
_PIECE = 1024 * 1024
_LONGEST_FIELD = 16 * 1024
_MOST_PARTS = 64
_LONGEST_HEADER = 8 * 1024
_MOST_HEADERS = 16
# RFC 2046, without the rule for the last character.
_boundary = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{1,70}").fullmatch
# As much as tells archives apart.
_MAGIC = 512

T = TypeVar("T")

ARCHIVE_KINDS = ("tar", "tar.gz", "zip")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload has made."""

    path: str
    size: int
    entries: int = 1


class Form:
    """A multipart/form-data body with the parts `file` and `path`, in any order, read as it comes.

    The file goes to a draft in the workspace, as its path may follow it. `close` is owed.
    """

    def __init__(self, service: FileService, content_type: str, limit: int) -> None:
        self._service = service
        self._limit = limit
        self._parser = PushMultipartParser(
            _read_boundary(content_type),
            max_header_size=_LONGEST_HEADER,
            max_header_count=_MOST_HEADERS,
            max_segment_count=_MOST_PARTS,
        )
        self._part = ""
        self._seen: set[str] = set()
        self._fields: dict[str, bytearray] = {}
        self._pending = bytearray()
        self._size = 0
        self._draft: Draft | None = None
        self._filename = ""

    async def receive(self, body: Body) -> None:
        """Take all of the body; raises ApiError."""
        try:
            async for chunk in body:
                if not chunk:
                    continue
                for event in self._parser.parse(chunk):
                    self._take(event)
                if len(self._pending) >= _PIECE:
                    await self._flush()
            self._parser.close()
        except (MultipartError, UnicodeError, AssertionError) as error:
            reason = str(error.args[0]) if error.args else "unexpected bytes"
            raise InvalidRequest(f"the multipart body is broken: {reason[:200]}") from None
        if "file" not in self._seen:
            raise MissingParameter("the part file is required")
        await self._flush()

    async def store(self, default: str | None, *, mode: int | None, overwrite: bool) -> Uploaded:
        """Give the file its path: the part `path`, else `default`, else the name that was sent."""
        asked = self._asked(default)
        path = self._path(asked)
        # To a directory only once, even if one in it has the file's name.
        may_enter = path == asked
        destination, size = await self._service.run(
            path, partial(self._store, path, mode, may_enter, overwrite=overwrite)
        )
        return Uploaded(destination, size)

    async def close(self) -> None:
        """Let go of what was not stored; may be repeated."""
        if self._draft is not None:
            draft, self._draft = self._draft, None
            await self._service.run(".", draft.discard)

    def _take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None or self._part == "":
            return
        elif self._part == "file":
            self._size += len(event)
            if self._size > self._limit:
                raise BodyTooLarge(
                    f"the file exceeds {self._limit} bytes", details={"limit": self._limit}
                )
            self._pending += event
        else:
            field = self._fields[self._part]
            field += event
            if len(field) > _LONGEST_FIELD:
                raise InvalidRequest(f"the part {self._part} exceeds {_LONGEST_FIELD} bytes")

    def _begin(self, segment: MultipartSegment) -> None:
        name = segment.name or ""
        if not name:
            raise InvalidRequest("the multipart body has a part without a name")
        self._part = ""
        if name not in ("file", "path"):
            return  # read and left
        if name in self._seen:
            raise InvalidRequest(f"the multipart body has two parts named {name}")
        self._seen.add(name)
        self._part = name
        if name == "file":
            self._filename = segment.filename or ""
        else:
            self._fields[name] = bytearray()

    async def _flush(self) -> None:
        data, self._pending = self._pending, bytearray()
        await self._service.run(".", partial(self._write, data))

    def _write(self, data: bytearray) -> None:
        if self._draft is None:
            self._draft = self._service.new_draft()
        self._draft.write(data)

    def _asked(self, default: str | None) -> str:
        try:
            path = names.real(self._fields.get("path", bytearray()).decode())
        except UnicodeDecodeError:
            path = os.fsdecode(bytes(self._fields["path"]))
        return path or default or ""

    def _path(self, path: str) -> str:
        if path and not path.endswith("/"):
            return path
        # Of a path only the last part: some clients send all of it.
        name = self._sent_name()
        if not name:
            raise MissingParameter("the part path is required, or a file name")
        return path + name

    def _sent_name(self) -> str:
        name = re.split(r"[/\\]", names.real(self._filename))[-1]
        return "" if name in (".", "..") else name

    def _store(
        self, path: str, mode: int | None, may_enter: bool, *, overwrite: bool
    ) -> tuple[str, int]:
        if self._draft is None:
            raise RuntimeError("nothing was received")
        name = self._sent_name()
        if may_enter and name and self._service.is_directory(path):
            path = f"{path}/{name}"
        with self._service.locate_new(path) as place:
            self._service.commit(self._draft, place, mode, overwrite=overwrite)
        return path, self._draft.size


def _read_boundary(content_type: str) -> str:
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data":
        raise InvalidRequest("the content type must be multipart/form-data")
    boundary = str(options.get("boundary", ""))
    if not boundary:
        raise InvalidRequest("the content type has no boundary")
    if not _boundary(boundary):
        raise InvalidRequest("the boundary has 1 to 70 characters that RFC 2046 allows")
    return boundary


class Unpacking:
    """An archive that is unpacked while it comes; a zip when it is complete. `close` is owed.

    Nothing is in the destination before all is well.
    """

    def __init__(self, service: FileService, path: str, kind: str | None, limit: int) -> None:
        self._service = service
        self._limits = service.limits
        self._path = path
        self._kind = kind
        self._limit = limit
        self._place: Place | None = None
        self._staging: Staging | None = None
        self._reader: Reader | None = None
        self._draft: Draft | None = None
        self._begun = bytearray()
        self._size = 0
        self._done = False

    async def receive(self, body: Body, *, overwrite: bool) -> Uploaded:
        """Take all of the body, then put what was in it at its place; raises ApiError."""
        await self._run(self._open)
        pending = bytearray()
        async for chunk in body:
            pending += chunk
            self._size += len(chunk)
            if self._size > self._limit:
                raise BodyTooLarge(
                    f"the archive exceeds {self._limit} bytes", details={"limit": self._limit}
                )
            if len(pending) >= _PIECE:
                data, pending = bytes(pending), bytearray()
                await self._run(partial(self._take, data))
        await self._run(partial(self._take, bytes(pending)))
        return await self._run(partial(self._finish, overwrite), long=True)

    async def close(self) -> None:
        """Remove what is not at its place; may be repeated."""
        await self._run(self._close, long=True)

    async def _run(self, work: Callable[[], T], *, long: bool = False) -> T:
        return await self._service.run(self._path, work, long=long)

    def _open(self) -> None:
        self._place = self._service.locate_directory(self._path)
        self._staging = self._service.new_staging(self._place)

    def _take(self, data: bytes) -> None:
        if self._reader is None and self._draft is None:
            self._begun += data
            if len(self._begun) < _MAGIC:
                return
            data = self._begin()
        self._pass_on(data)

    def _begin(self) -> bytes:
        """Find out what it is; what has come by now."""
        data = bytes(self._begun)
        self._begun.clear()
        if not data:
            raise MissingParameter("a body is required: an archive")
        staging, _ = self._opened()
        kind = self._kind or _kind_of(data)
        if kind == "zip":
            self._draft = Draft(staging.parent)
            return data
        self._reader = read_tar(staging)
        next(self._reader)
        if kind == "tar.gz":
            self._reader = read_gzip(self._reader, self._limits.ratio)
            next(self._reader)
        return data

    def _pass_on(self, data: bytes) -> None:
        staging, _ = self._opened()
        staging.consumed += len(data)
        if self._draft is not None:
            self._draft.write(data)
        elif self._reader is not None and data:
            self._reader.send(data)

    def _finish(self, overwrite: bool) -> Uploaded:
        staging, _ = self._opened()
        if self._reader is None and self._draft is None:
            self._pass_on(self._begin())
        if self._draft is not None:
            with os.fdopen(os.dup(self._draft.file), "rb") as file:
                read_zip(file, staging, self._limits)
        elif self._reader is not None:
            with contextlib.suppress(StopIteration):
                self._reader.send(None)
        staging.commit(mode=DIRECTORY_MODE, overwrite=overwrite)
        self._done = True
        return Uploaded(self._path, staging.bytes, staging.entries)

    def _opened(self) -> tuple[Staging, Place]:
        if self._staging is None or self._place is None:
            raise RuntimeError("it is not open")
        return self._staging, self._place

    def _close(self) -> None:
        if self._draft is not None:
            self._draft.discard()
        if self._staging is not None:
            self._staging.discard()
        if self._place is not None:
            if not self._done:
                self._place.unmake()
            self._place.close()
        self._draft = self._staging = self._place = None


def _kind_of(data: bytes) -> str:
    if data.startswith(b"PK"):
        return "zip"
    return "tar.gz" if data.startswith(b"\x1f\x8b") else "tar"
