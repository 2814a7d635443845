"""Shapes of the wire for files."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator

from kernelagent.web.bodies import Body, Text

_mode = re.compile(r"(?:0o)?[0-7]{1,4}").fullmatch
_HIGHEST_MODE = 0o777


def read_mode(value: str | None) -> str | None:
    """`value` if it is an octal mode; raises ValueError."""
    if value is not None and (not _mode(value) or int(value, 8) > _HIGHEST_MODE):
        raise ValueError("a mode is an octal number up to 0777, as a string")
    return value


class PathRequest(Body):
    """A path in a body."""

    path: Text = Field(description="Absolute, or relative to the workspace")


class MkdirRequest(PathRequest):
    """A directory to be made."""

    mode: Text | None = Field(None, description="Octal; 0755 if absent")

    _check_mode = field_validator("mode")(read_mode)


class WriteRequest(PathRequest):
    """A file to be written. Unknown fields are accepted, null means absent."""

    content: Text = Field(description="Text, or Base64 if encoding says so")
    mode: Text | None = Field(
        None, description="Octal; if absent that of the file replaced, or 0644"
    )
    encoding: Literal["utf-8", "utf8", "text", "base64"] | None = Field(
        None, description="base64 for bytes; else content is text"
    )
    overwrite: StrictBool | None = Field(None, description="Whether a file may be replaced; true")

    _check_mode = field_validator("mode")(read_mode)


class TransferRequest(Body):
    """Something to be moved or copied."""

    model_config = ConfigDict(extra="forbid")

    source: Text = Field(description="What; a link itself")
    destination: Text = Field(description="Its new path; ending with / the directory it goes to")
    overwrite: StrictBool = Field(False, description="Whether a file may be replaced")


class FileInfo(BaseModel):
    """A file, a directory, or something else that has a path."""

    name: str
    path: str
    size: int
    is_directory: bool = Field(description="Also of a link to one")
    is_dir: bool
    is_symlink: bool
    target: str | None = Field(None, description="Where a link leads")
    modified_time: str
    modified: str
    permissions: str = Field(description="As ls shows it: -rw-r--r--")
    mode: str = Field(description="Octal: 0644")
    uid: int
    gid: int


class StatResponse(FileInfo):
    """What a path names."""

    exists: bool = True
    type: str = Field(description="file, directory, symlink or other")
    links: int = Field(description="How many names the file has")
    etag: str = Field(description="As /files/download sends it")
    timestamp: str


class ReadResponse(BaseModel):
    """A file's contents."""

    content: str
    path: str
    size: int = Field(description="Bytes")
    encoding: str = Field(description="utf-8 or base64")
    timestamp: str


class ListResponse(BaseModel):
    """What is in a directory."""

    files: list[FileInfo]
    path: str
    count: int
    truncated: bool = Field(description="Whether there is more than limit")
    skipped: int = Field(description="Directories that could not be read")
    timestamp: str


class ExistsResponse(BaseModel):
    """Whether a path names something that may be used."""

    exists: bool
    path: str
    is_directory: bool
    is_dir: bool
    timestamp: str


class ChangeResponse(BaseModel):
    """What was done."""

    path: str
    size: int
    message: str
    success: bool = True
    timestamp: str


class UnpackResponse(ChangeResponse):
    """What was unpacked."""

    entries: int


class SearchMatch(BaseModel):
    """A line with a match; the first one in it."""

    path: str
    line: int
    column: int
    text: str = Field(description="The line, or a part of it")
    match: str


class SearchResponse(BaseModel):
    """Where a pattern matches."""

    matches: list[SearchMatch]
    count: int
    path: str
    files_searched: int
    skipped: int = Field(description="Files too large, or not to be read")
    truncated: bool
    reason: str | None = Field(None, description="limit or time, if truncated")
    timestamp: str
