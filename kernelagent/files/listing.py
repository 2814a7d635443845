"""What is in a directory, and what a path names."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import Any

from kernelagent.errors import InvalidPath, PathNotAllowed
from kernelagent.files.fs.facts import describe, kind
from kernelagent.files.fs.paths import Roots
from kernelagent.files.fs.tree import Entry, Omissions, walk
from kernelagent.files.search.globs import Glob


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in a directory, or the first part of it."""

    files: list[dict[str, Any]]
    truncated: bool
    skipped: int


def list_directory(
    roots: Roots, directory: int, path: str, pattern: Glob | None, limit: int, *, recursive: bool
) -> Listing:
    """Return what is in `directory`, an open one at `path`, and close it; raise OSError."""
    base = roots.absolute(path).rstrip("/") + "/"
    omissions = Omissions()
    files: list[dict[str, Any]] = []
    entries = walk(directory, roots.is_closed, omissions, recursive=recursive)
    with contextlib.closing(entries):  # type: ignore[type-var]
        for entry in entries:
            if pattern is not None and not pattern.matches(entry.path):
                continue
            if len(files) == limit:
                return Listing(files, True, omissions.count)
            files.append(_describe_entry(roots, base + entry.path, entry))
    return Listing(files, False, omissions.count)


def describe_path(roots: Roots, path: str) -> dict[str, Any]:
    """Return what is at `path`, a link as itself; raise OSError, ApiError.

    `facts` are those of what a link leads to, if that may be used.
    """
    target = leads_to = None
    with roots.locate(path, follow=False) as place:
        facts = place.facts()
        if stat.S_ISLNK(facts.st_mode):
            target = os.readlink(place.name, dir_fd=place.directory)
    if target is not None:
        leads_to = facts_at(roots, path)
    return {
        **describe(roots.absolute(path), facts, target=target, leads_to=leads_to),
        "type": kind(facts),
        "links": facts.st_nlink,
        "facts": leads_to or facts,
    }


def facts_at(roots: Roots, path: str) -> os.stat_result | None:
    """Return what is at `path`, links followed; None if nothing is that may be used."""
    try:
        with roots.locate(path) as place:
            return place.facts()
    except (OSError, PathNotAllowed, InvalidPath):
        return None


def _describe_entry(roots: Roots, path: str, entry: Entry) -> dict[str, Any]:
    target = leads_to = None
    if entry.is_link:
        with contextlib.suppress(OSError):
            target = entry.target()
            leads_to = facts_at(roots, path)
    return describe(path, entry.facts, target=target, leads_to=leads_to)
