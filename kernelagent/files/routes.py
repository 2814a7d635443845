"""Routes of files."""

from __future__ import annotations

import stat
from functools import partial
from posixpath import normpath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Query, Request
from starlette.responses import Response

from kernelagent.auth.tokens import FILES
from kernelagent.errors import InvalidJson, MissingParameter
from kernelagent.files import bulk
from kernelagent.files.answers import archive_answer, download_answer, read_answer
from kernelagent.files.archives.writing import MEDIA_TYPES, archive
from kernelagent.files.body import Body
from kernelagent.files.fs import names
from kernelagent.files.fs.facts import etag
from kernelagent.files.models import (
    ChangeResponse,
    ExistsResponse,
    ListResponse,
    MkdirRequest,
    PathRequest,
    ReadResponse,
    SearchResponse,
    StatResponse,
    TransferRequest,
    UnpackResponse,
    WriteRequest,
)
from kernelagent.files.search.search import TextSearch
from kernelagent.files.service import DIRECTORY_MODE, FileService
from kernelagent.files.uploads import Form, Unpacking
from kernelagent.files.writing import write
from kernelagent.text import utc_timestamp
from kernelagent.web.json import json_response
from kernelagent.web.routing import ErrorResponse, feature_router
from kernelagent.web.services import service_of

if TYPE_CHECKING:
    from kernelagent.settings import Settings

# A file that is not larger is read at once.
_SMALL = 256 * 1024
_MOST_LISTED = 100_000
_MOST_MATCHES = 10_000
_FORM_ROOM = 64 * 1024

router = feature_router("files", FILES)

_PATH = Query(description="Absolute, or relative to the workspace")
Path = Annotated[str | None, _PATH]
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_TOO_LARGE: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorResponse, "description": "The body exceeds the limit"}
}


def body_limits(settings: Settings) -> dict[str, int]:
    """Largest bodies of the routes that take larger ones than others, by path."""
    return {
        "/files/write": settings.max_write_bytes,
        "/files/upload": settings.max_upload_bytes + _FORM_ROOM,
        "/files/archive": settings.max_upload_bytes,
    }


def _service(request: Request) -> FileService:
    return service_of(request, FileService)


def _path(request: Request, path: str | None, parameter: str = "path") -> str:
    """The path in the query as the file system has it; raises MissingParameter."""
    if path is not None and not path.isascii():
        # What is no UTF-8 has been replaced by now.
        path = names.from_query(request.scope["query_string"], parameter)
    if not path:
        raise MissingParameter(f"query parameter {parameter} is required")
    return path


def _changed(path: str, message: str, size: int = 0, **more: Any) -> Response:
    return json_response(
        {
            "path": names.shown(path),
            "size": size,
            "message": message,
            "success": True,
            "timestamp": utc_timestamp(),
            **more,
        }
    )


@router.get("/files/read", response_model=ReadResponse)
async def read_file(
    request: Request,
    path: Path = None,
    encoding: Annotated[
        Literal["utf-8", "base64"],
        Query(description="utf-8 replaces what is no text; base64 is exact"),
    ] = "utf-8",
) -> Response:
    """A file's contents as text, or as Base64."""
    service = _service(request)
    with service.threads.operation():
        file, data = await service.read_small(_path(request, path), _SMALL)
    if data is None:
        return read_answer(service.threads, file, encoding)
    size = file.facts.st_size
    file.close()
    make = bulk.json_base64 if encoding == "base64" else None
    if make is None:
        content = data.decode("utf-8", "replace")
    else:
        content = b"".join(make(iter((data,)))).decode()
    return json_response(
        {
            "content": content,
            "path": names.shown(file.path),
            "size": size,
            "encoding": encoding,
            "timestamp": utc_timestamp(),
        }
    )


@router.post(
    "/files/write",
    response_model=ChangeResponse,
    responses=_TOO_LARGE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": WriteRequest.model_json_schema()}},
        }
    },
)
async def write_file(request: Request) -> Response:
    """Make or replace a file as a whole, and the directories above it."""
    service = _service(request)
    with service.threads.operation():
        _check_json(request)
        body = bytearray()
        async for chunk in Body(request.receive):
            body += chunk
        path, size = await write(service, body)
    return _changed(path, "the file was written", size)


def _check_json(request: Request) -> None:
    kind = request.headers.get("content-type", "application/json").partition(";")[0]
    kind = kind.strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        raise InvalidJson("the body must be a JSON object, and declared as application/json")


@router.get("/files/list", response_model=ListResponse)
async def list_files(
    request: Request,
    path: Path = None,
    recursive: Annotated[bool, Query(description="Everything beneath it; links stay shut")] = False,
    glob: Annotated[
        str | None,
        Query(description="What is listed: `*.py`, `src/**/test_*`; without a slash by name"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED, description="Entries")] = _MOST_LISTED,
) -> Response:
    """What is in a directory; the workspace if none is named."""
    service = _service(request)
    wanted = _path(request, path) if path else service.roots.workspace
    with service.threads.operation():
        listing = await service.list(wanted, recursive=recursive, glob=glob, limit=limit)
    return await service.threads.run(
        partial(
            json_response,
            {
                "files": listing.files,
                "path": names.shown(service.roots.absolute(wanted)),
                "count": len(listing.files),
                "truncated": listing.truncated,
                "skipped": listing.skipped,
                "timestamp": utc_timestamp(),
            },
        )
    )


@router.get("/files/exists", response_model=ExistsResponse)
async def file_exists(request: Request, path: Path = None) -> Response:
    """Whether a path names something; no for paths that are not allowed."""
    service = _service(request)
    wanted = _path(request, path)
    with service.threads.operation():
        facts = await service.exists(wanted)
    is_directory = facts is not None and stat.S_ISDIR(facts.st_mode)
    return json_response(
        {
            "exists": facts is not None,
            "path": names.shown(wanted),
            "is_directory": is_directory,
            "is_dir": is_directory,
            "timestamp": utc_timestamp(),
        }
    )


@router.get("/files/stat", response_model=StatResponse)
async def stat_file(request: Request, path: Path = None) -> Response:
    """What a path names, a link as itself and with where it leads."""
    service = _service(request)
    with service.threads.operation():
        found = await service.look(_path(request, path))
    facts = found.pop("facts")
    return json_response(
        {**found, "exists": True, "etag": etag(facts), "timestamp": utc_timestamp()}
    )


@router.delete("/files/remove", response_model=ChangeResponse)
async def remove_file(
    request: Request,
    path: Path = None,
    recursive: Annotated[bool, Query(description="Whether a directory goes with contents")] = True,
    wanted: PathRequest | None = None,
) -> Response:
    """Remove a file, a link itself, or a directory; the path may be in the body too."""
    service = _service(request)
    removed = _path(request, path) if path or wanted is None else names.real(wanted.path)
    with service.threads.operation():
        size = await service.remove(removed, recursive=recursive)
    return _changed(removed, "it was removed", size)


@router.post("/files/mkdir", response_model=ChangeResponse)
async def make_directory(request: Request, wanted: MkdirRequest) -> Response:
    """Have a directory and those above it; one that exists is a success."""
    service = _service(request)
    path = names.real(wanted.path)
    mode = DIRECTORY_MODE if wanted.mode is None else int(wanted.mode, 8)
    with service.threads.operation():
        await service.make_directory(path, mode)
    return _changed(path, "the directory is there")


@router.post("/files/move", response_model=ChangeResponse)
async def move_file(request: Request, wanted: TransferRequest) -> Response:
    """Give a file or a directory another path, on another file system too."""
    service = _service(request)
    with service.threads.operation():
        path = await service.move(
            names.real(wanted.source), names.real(wanted.destination), overwrite=wanted.overwrite
        )
    return _changed(path, "it was moved")


@router.post("/files/copy", response_model=ChangeResponse)
async def copy_file(request: Request, wanted: TransferRequest) -> Response:
    """Copy a file, or a directory with all that is in it; links stay links."""
    service = _service(request)
    with service.threads.operation():
        path = await service.copy(
            names.real(wanted.source), names.real(wanted.destination), overwrite=wanted.overwrite
        )
    return _changed(path, "it was copied")


@router.post(
    "/files/upload",
    response_model=ChangeResponse,
    responses=_TOO_LARGE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {
                            "file": {"type": "string", "format": "binary"},
                            "path": {
                                "type": "string",
                                "description": "Where it goes; a directory gets the file's name",
                            },
                        },
                    }
                }
            },
        }
    },
)
async def upload_file(
    request: Request,
    path: Path = None,
    mode: Annotated[
        str | None, Query(pattern=r"^0?[0-7]{1,3}$", description="Octal, as for /files/write")
    ] = None,
    overwrite: Annotated[bool, Query(description="Whether a file may be replaced")] = True,
) -> Response:
    """Take a file of any size by a form with the parts `file` and `path`, in any order."""
    service = _service(request)
    limit: int = request.app.state.settings.max_upload_bytes
    bits = None if mode is None else int(mode, 8)
    default = _path(request, path) if path else None
    with service.threads.operation():
        async with Body(request.receive) as body:
            form = Form(service, request.headers.get("content-type", ""), limit)
            try:
                await form.receive(body)
                uploaded = await form.store(default, mode=bits, overwrite=overwrite)
            finally:
                await form.close()
    return _changed(uploaded.path, "the file was uploaded", uploaded.size)


@router.get(
    "/files/download",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": _BYTES}},
        206: {"content": {"application/octet-stream": _BYTES}, "description": "A range of it"},
        304: {"description": "As the client has it"},
        416: {"model": ErrorResponse, "description": "The file ends before the range"},
    },
)
async def download_file(request: Request, path: Path = None) -> Response:
    """A file's bytes; with Range, ETag, If-None-Match, If-Modified-Since and If-Range."""
    service = _service(request)
    with service.threads.operation():
        file = await service.open(_path(request, path))
    return download_answer(service.threads, file, request.scope, request.headers)


@router.get("/files/search", response_model=SearchResponse)
async def search_files(
    request: Request,
    pattern: Annotated[str | None, Query(description="A regular expression")] = None,
    path: Path = None,
    glob: Annotated[str | None, Query(description="Which files, as for /files/list")] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_MATCHES, description="Matches")] = 1000,
    literal: Annotated[bool, Query(description="Take the pattern as it is")] = False,
    ignore_case: Annotated[bool, Query(description="Upper and lower case are the same")] = False,
) -> Response:
    """Lines of text files that match a pattern; the workspace if no path is named."""
    service = _service(request)
    if not pattern:
        raise MissingParameter("query parameter pattern is required")
    base = _path(request, path) if path else service.roots.workspace
    with service.threads.operation():
        search = await service.threads.run(
            partial(
                TextSearch,
                pattern,
                literal=literal,
                ignore_case=ignore_case,
                glob=glob,
                limit=limit,
            ),
            long=True,
        )
        await service.search(base, search)
    shown = names.shown(service.roots.absolute(base))
    for match in search.matches:
        match["path"] = f"{shown.rstrip('/')}/{names.shown(match['path'])}".rstrip("/")
    return await service.threads.run(
        partial(
            json_response,
            {
                "matches": search.matches,
                "count": len(search.matches),
                "path": shown,
                "files_searched": search.searched,
                "skipped": search.skipped.count,
                "truncated": search.reason is not None,
                "reason": search.reason,
                "timestamp": utc_timestamp(),
            },
        )
    )


@router.get(
    "/files/archive",
    response_class=Response,
    responses={200: {"content": dict.fromkeys(MEDIA_TYPES.values(), _BYTES)}},
)
async def download_archive(
    request: Request,
    path: Path = None,
    format: Annotated[
        Literal["tar", "tar.gz", "zip"], Query(description="Of the archive")
    ] = "tar.gz",
) -> Response:
    """A directory with all that is in it, as an archive; links stay links."""
    service = _service(request)
    wanted = _path(request, path) if path else service.roots.workspace
    with service.threads.operation():
        directory = await service.open_tree(wanted)
    pieces = archive(format, directory.descriptor, service.roots.is_closed, service.may_read)
    name = normpath(service.roots.absolute(wanted)).rpartition("/")[2]
    return archive_answer(service.threads, pieces, directory, format, name)


@router.post(
    "/files/archive",
    response_model=UnpackResponse,
    responses=_TOO_LARGE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": dict.fromkeys((*MEDIA_TYPES.values(), "application/octet-stream"), _BYTES),
        }
    },
)
async def upload_archive(
    request: Request,
    path: Path = None,
    format: Annotated[
        Literal["tar", "tar.gz", "zip"] | None, Query(description="If not what it looks like")
    ] = None,
    overwrite: Annotated[bool, Query(description="Whether files may be replaced")] = True,
) -> Response:
    """Unpack an archive into a directory; all of it or nothing."""
    service = _service(request)
    limit: int = request.app.state.settings.max_upload_bytes
    wanted = _path(request, path)
    with service.threads.operation():
        async with Body(request.receive) as body:
            unpacking = Unpacking(service, wanted, format, limit)
            try:
                done = await unpacking.receive(body, overwrite=overwrite)
            finally:
                await unpacking.close()
    return _changed(done.path, "the archive was unpacked", done.size, entries=done.entries)
