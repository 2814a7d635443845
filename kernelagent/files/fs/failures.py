"""The system's errors about files, as errors of ours."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from kernelagent.errors import (
    ApiError,
    DirectoryNotEmpty,
    DiskFull,
    FileAlreadyExists,
    FileNotFound,
    FileOperationFailed,
    InvalidPath,
    PermissionDenied,
)
from kernelagent.files.fs import names
from kernelagent.files.fs.paths import quoted, told

# Published clients take the words "not found" for a missing file and more: none is in here.
_KINDS: dict[int, tuple[type[ApiError], str]] = {
    errno.ENOENT: (FileNotFound, "no such file or directory"),
    errno.ESTALE: (FileNotFound, "no such file or directory"),
    errno.ENOTDIR: (InvalidPath, "not a directory"),
    errno.EISDIR: (InvalidPath, "this is a directory"),
    errno.ELOOP: (InvalidPath, "too many links, or one that is not followed"),
    errno.ENAMETOOLONG: (InvalidPath, "the name is too long"),
    errno.EINVAL: (InvalidPath, "this cannot be done with this path"),
    errno.EILSEQ: (InvalidPath, "the file system does not take this name"),
    errno.ENXIO: (InvalidPath, "this is no regular file"),
    errno.ENODEV: (InvalidPath, "this is no regular file"),
    errno.EEXIST: (FileAlreadyExists, "this exists already"),
    errno.ENOTEMPTY: (DirectoryNotEmpty, "the directory is not empty"),
}

_DENIED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
}
_FULL = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
}


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """What the system refuses in here is about `path`, and becomes an error that a caller sees."""
    try:
        yield
    except OSError as error:
        raise failure(error, path) from error


def failure(error: OSError, path: str) -> ApiError:
    """What a caller is told of `error`."""
    shown = told(names.shown(path))
    number, end, details = error.errno or 0, quoted(shown), {"path": shown}
    if number in _DENIED:
        return PermissionDenied(f"{_DENIED[number]}{end}", details=details)
    if number in _FULL:
        return DiskFull(f"{_FULL[number]}{end}", details=details)
    reason = error.strerror or "unknown error"
    kind, sentence = _KINDS.get(number, (FileOperationFailed, f"the system refused it ({reason})"))
    return kind(f"{sentence}{end}", details=details)
