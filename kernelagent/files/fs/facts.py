"""What clients are told of a file."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from typing import Any

from kernelagent.files.fs import names
from kernelagent.text import utc_timestamp

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def moment(facts: os.stat_result) -> str:
    """When it was modified."""
    try:
        return utc_timestamp(datetime.fromtimestamp(facts.st_mtime, UTC))
    except (OverflowError, ValueError, OSError):
        return utc_timestamp(_EARLIEST)


def etag(facts: os.stat_result) -> str:
    """Another one after every change: a write makes another file, with another number."""
    return f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"'


def describe(
    path: str,
    facts: os.stat_result,
    *,
    target: str | None = None,
    leads_to: os.stat_result | None = None,
) -> dict[str, Any]:
    """A file's row in a list; `leads_to` is what a link leads to."""
    is_directory = stat.S_ISDIR((leads_to or facts).st_mode)
    modified = moment(facts)
    described = {
        "name": names.shown(path.rstrip("/").rpartition("/")[2]),
        "path": names.shown(path),
        "size": facts.st_size,
        "is_directory": is_directory,
        "is_dir": is_directory,
        "is_symlink": stat.S_ISLNK(facts.st_mode),
        "modified_time": modified,
        "modified": modified,
        "permissions": stat.filemode(facts.st_mode),
        "mode": f"{stat.S_IMODE(facts.st_mode):04o}",
        "uid": facts.st_uid,
        "gid": facts.st_gid,
    }
    if target is not None:
        described["target"] = names.shown(target)
    return described


def kind(facts: os.stat_result) -> str:
    """In a word."""
    if stat.S_ISREG(facts.st_mode):
        return "file"
    if stat.S_ISDIR(facts.st_mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(facts.st_mode) else "other"
