"""Answers that are sent piece by piece, as they are read from the disk."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
from starlette.responses import Response

from kernelagent.errors import RangeNotSatisfiable
from kernelagent.files import bulk
from kernelagent.files.fs import names
from kernelagent.files.fs.facts import etag
from kernelagent.files.fs.open_file import OpenFile
from kernelagent.files.fs.threads import FileThreads
from kernelagent.text import utc_timestamp
from kernelagent.web.errors import error_response
from kernelagent.web.streaming import while_connected

if TYPE_CHECKING:
    import os

    from starlette.types import Receive, Scope, Send

_PIECE = 256 * 1024
_range = re.compile(r"bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*").fullmatch


class PiecewiseResponse(Response):
    """An answer made of what an iterator gives, each step in a thread.

    `close` is called when it is sent, or the client has left. If the iterator fails, or gives less
    than was announced, the connection is cut: half an answer must not look like a whole one.
    """

    def __init__(
        self,
        threads: FileThreads,
        pieces: Iterator[bytes],
        close: Callable[[], None],
        *,
        status: int = 200,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__(status_code=status, media_type=media_type, headers=headers)
        del self.headers["content-length"]
        if size is not None:
            self.headers["content-length"] = str(size)
        self._threads = threads
        self._pieces = pieces
        self._close = close
        self._size = size

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await while_connected(self._send_all(send), receive)

    async def _send_all(self, send: Send) -> None:
        step: asyncio.Future[bytes | None] | None = None
        sent = 0
        try:
            with self._threads.operation():
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                while True:
                    step = asyncio.ensure_future(self._threads.run(self._next))
                    piece = await asyncio.shield(step)
                    if piece is None:
                        break
                    sent += len(piece)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                if self._size is None or sent == self._size:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            # A thread may be in the middle of a step.
            if step is not None:
                await asyncio.wait((step,))
            await self._threads.run(self._end)

    def _next(self) -> bytes | None:
        """Enough for one message, None at the end."""
        taken = bytearray()
        for piece in self._pieces:
            taken += piece
            if len(taken) >= _PIECE:
                break
        return bytes(taken) or None

    def _end(self) -> None:
        try:
            finish = getattr(self._pieces, "close", None)
            if finish is not None:
                finish()
        finally:
            self._close()


def read_answer(threads: FileThreads, file: OpenFile, encoding: str) -> Response:
    """The answer of /files/read, however large the file is."""
    make = bulk.json_base64 if encoding == "base64" else bulk.json_text
    size = file.facts.st_size
    rest = {
        "path": names.shown(file.path),
        "size": size,
        "encoding": encoding,
        "timestamp": utc_timestamp(),
    }

    def pieces() -> Iterator[bytes]:
        yield b'{"content":"'
        yield from make(file.pieces(0, size, _PIECE))
        yield b'",' + orjson.dumps(rest)[1:]

    return PiecewiseResponse(threads, pieces(), file.close, media_type="application/json")


def download_answer(
    threads: FileThreads, file: OpenFile, scope: Scope, headers: Mapping[str, str]
) -> Response:
    """A file's bytes, or those that the request asks for."""
    tag, size = etag(file.facts), file.facts.st_size
    modified = _modified(file.facts)
    known = {
        "ETag": tag,
        "Last-Modified": format_datetime(modified, usegmt=True),
        "Accept-Ranges": "bytes",
        # It may be kept, and is asked for again with what it was.
        "Cache-Control": "private, no-cache",
    }
    if _is_known(headers, tag, modified):
        file.close()
        return Response(status_code=304, headers=known)
    try:
        wanted = _wanted_range(headers, tag, modified, size)
    except RangeNotSatisfiable as error:
        file.close()
        return error_response(error, scope, headers={**known, "Content-Range": f"bytes */{size}"})
    start, length = (0, size) if wanted is None else wanted
    known["Content-Disposition"] = _disposition(file.path)
    if wanted is not None:
        known["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    return PiecewiseResponse(
        threads,
        file.pieces(start, length, _PIECE),
        file.close,
        status=200 if wanted is None else 206,
        media_type="application/octet-stream",
        headers=known,
        size=length,
    )


def archive_answer(
    threads: FileThreads, pieces: Iterator[bytes], directory: OpenFile, kind: str, name: str
) -> Response:
    """An archive of a directory, as it is made."""
    from kernelagent.files.archives.writing import MEDIA_TYPES

    return PiecewiseResponse(
        threads,
        pieces,
        directory.close,
        media_type=MEDIA_TYPES[kind],
        headers={"Content-Disposition": _disposition(f"{name}.{kind}")},
    )


def _modified(facts: os.stat_result) -> datetime:
    try:
        return datetime.fromtimestamp(int(facts.st_mtime), UTC)
    except (OverflowError, ValueError, OSError):
        return datetime(1970, 1, 1, tzinfo=UTC)


def _is_known(headers: Mapping[str, str], tag: str, modified: datetime) -> bool:
    """Whether the client has the file as it is."""
    tags = headers.get("if-none-match")
    if tags is not None:
        known = {known.strip().removeprefix("W/") for known in tags.split(",")}
        return "*" in known or tag in known
    since = _read_date(headers.get("if-modified-since"))
    return since is not None and modified <= since


def _wanted_range(
    headers: Mapping[str, str], tag: str, modified: datetime, size: int
) -> tuple[int, int] | None:
    """Beginning and length of the one range that is asked for; several are answered by all.

    Raises RangeNotSatisfiable.
    """
    match = _range(headers.get("range", "").lower())
    if match is None or not any(match.groups()):
        return None
    condition = headers.get("if-range")
    if condition is not None and condition.strip() != tag and _read_date(condition) != modified:
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        end = min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return None
        length = end - start + 1
    if length <= 0:
        raise RangeNotSatisfiable(f"the file has {size} bytes", details={"size": size})
    return start, length


def _read_date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _disposition(path: str) -> str:
    name = names.shown(path.rstrip("/").rpartition("/")[2]) or "file"
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    if plain == name:
        return f'attachment; filename="{name}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
