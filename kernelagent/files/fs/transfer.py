"""Copies and moves, within a file system and from one to another."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from kernelagent.errors import (
    DirectoryNotEmpty,
    FileAlreadyExists,
    FileOperationFailed,
    InvalidPath,
)
from kernelagent.files.archives.staging import Staging
from kernelagent.files.fs import names, syscalls
from kernelagent.files.fs.draft import Draft, sync, temporary_name
from kernelagent.files.fs.paths import Identity, Place, ancestors, quoted, told
from kernelagent.files.fs.tree import DEEPEST, Omissions, remove_tree, walk

Check = Callable[[os.stat_result], bool]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1024 * 1024


def move_entry(
    source: Place, target: Place, is_closed: Check, may_read: Check, *, overwrite: bool
) -> None:
    """Give what is at `source` the name `target`; raises OSError, ApiError."""
    try:
        if overwrite:
            facts = source.facts()
            _check_replaced(facts, target)
            if stat.S_ISLNK(facts.st_mode):
                _check_end(source, target)
            if _is_second_name(source, facts, target):
                # The system would leave both as they are.
                os.unlink(source.name, dir_fd=source.directory)
                sync(source.directory)
                return
            os.rename(
                source.name,
                target.name,
                src_dir_fd=source.directory,
                dst_dir_fd=target.directory,
            )
        else:
            syscalls.rename_new(
                source.name,
                target.name,
                directory=source.directory,
                new_directory=target.directory,
            )
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        sync(target.directory)
        sync(source.directory)
        return
    # First the copy, whole and on the disk, then the original goes.
    copy_entry(source, target, is_closed, may_read, overwrite=overwrite)
    if stat.S_ISDIR(source.facts().st_mode):
        remove_tree(source.directory, source.name)
    else:
        os.unlink(source.name, dir_fd=source.directory)


def copy_entry(
    source: Place, target: Place, is_closed: Check, may_read: Check, *, overwrite: bool
) -> None:
    """Have a copy at `target`, seen when it is complete; raises OSError, ApiError."""
    facts = source.facts()
    if stat.S_ISLNK(facts.st_mode):
        _check_replaced(facts, target)
        _copy_link(source, target, overwrite=overwrite)
    elif stat.S_ISREG(facts.st_mode):
        _check_replaced(facts, target)
        _copy_file(source, target, may_read, overwrite=overwrite)
    elif stat.S_ISDIR(facts.st_mode):
        _copy_directory(source, target, is_closed, may_read)
    else:
        raise InvalidPath(f"this is no regular file{_quoted(source)}")


def _copy_link(source: Place, target: Place, *, overwrite: bool) -> None:
    _check_end(source, target)
    if _identity(target) == _identity(source):
        raise FileAlreadyExists(f"source and destination are the same{_quoted(target)}")
    leads_to = os.readlink(source.name, dir_fd=source.directory)
    if overwrite:
        name = temporary_name()
        os.symlink(leads_to, name, dir_fd=target.directory)
        try:
            os.rename(name, target.name, src_dir_fd=target.directory, dst_dir_fd=target.directory)
        except BaseException:
            os.unlink(name, dir_fd=target.directory)
            raise
    else:
        os.symlink(leads_to, target.name, dir_fd=target.directory)
    sync(target.directory)


def _check_end(source: Place, target: Place) -> None:
    # A link in the place of what it leads to would lead to itself.
    there = _identity(target)
    if there is not None and there == _end_of(source):
        raise FileAlreadyExists(f"source and destination are the same{_quoted(target)}")


def _copy_file(source: Place, target: Place, may_read: Check, *, overwrite: bool) -> None:
    opened = source.open(os.O_RDONLY)
    try:
        facts = os.fstat(opened)
        if not stat.S_ISREG(facts.st_mode) or not may_read(facts):
            raise InvalidPath(f"this file cannot be copied{_quoted(source)}")
        if Identity.of(facts) == _identity(target):
            raise FileAlreadyExists(f"source and destination are the same{_quoted(target)}")
        draft = Draft(target.directory)
        try:
            draft.write_from(opened)
            os.utime(draft.file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            mode = stat.S_IMODE(facts.st_mode) & 0o777
            draft.commit(target.directory, target.name, mode=mode, overwrite=overwrite)
        finally:
            draft.discard()
    finally:
        os.close(opened)


def _copy_directory(source: Place, target: Place, is_closed: Check, may_read: Check) -> None:
    if _identity(target) is not None:
        raise FileAlreadyExists(f"this exists already{_quoted(target)}")
    opened = os.open(source.name, _DIRECTORY, dir_fd=source.directory)
    top = os.fstat(opened)
    if Identity.of(top) in _ways_up(target):
        os.close(opened)
        raise InvalidPath(f"a directory cannot be copied into itself{_quoted(target)}")
    try:
        staging = Staging(target, is_closed)
    except BaseException:
        os.close(opened)
        raise
    try:
        omissions = Omissions()
        for entry in walk(opened, is_closed, omissions):
            mode, modified = stat.S_IMODE(entry.facts.st_mode), entry.facts.st_mtime
            if entry.is_directory:
                staging.directory(entry.path, mode, modified)
            elif entry.is_link:
                staging.link(entry.path, entry.target())
            elif entry.is_file:
                file = entry.open()
                try:
                    if not may_read(os.fstat(file)):
                        omissions.add(entry.path)
                        continue
                    staging.begin_file(entry.path, mode, modified)
                    while data := os.read(file, _PIECE):
                        staging.write(data)
                    staging.end_file()
                finally:
                    os.close(file)
            else:
                omissions.add(entry.path)
        if omissions.count:
            left = [names.shown(path) for path in omissions.paths[:20]]
            raise FileOperationFailed(
                f"{omissions.count} entries cannot be copied, as they cannot be read, are of no "
                f"kind that can, or are more than {DEEPEST} directories deep; nothing was",
                details={"entries": left, "count": omissions.count},
            )
        staging.commit(mode=stat.S_IMODE(top.st_mode) & 0o777, overwrite=False)
    finally:
        staging.discard()


def _check_replaced(facts: os.stat_result, target: Place) -> None:
    """Refuse to replace a directory by a file, one that is not empty, and what is no file."""
    try:
        there = target.facts()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(there.st_mode) != stat.S_ISDIR(facts.st_mode):
        raise FileAlreadyExists(
            f"a directory and a file do not replace each other{_quoted(target)}"
        )
    if stat.S_ISDIR(there.st_mode):
        opened = os.open(target.name, _DIRECTORY, dir_fd=target.directory)
        try:
            with os.scandir(opened) as entries:
                if next(entries, None) is not None:
                    raise DirectoryNotEmpty(f"the directory is not empty{_quoted(target)}")
        finally:
            os.close(opened)


def _is_second_name(source: Place, facts: os.stat_result, target: Place) -> bool:
    """Whether both are names of one file, and not the same name."""
    if stat.S_ISDIR(facts.st_mode) or facts.st_nlink < 2:
        return False
    if Identity.of(facts) != _identity(target):
        return False
    directories = {Identity.of(os.fstat(place.directory)) for place in (source, target)}
    return source.name != target.name or len(directories) == 2


def _identity(place: Place) -> Identity | None:
    try:
        return Identity.of(place.facts())
    except FileNotFoundError:
        return None


def _end_of(link: Place) -> Identity | None:
    """What it leads to, wherever that is; None if nothing is there."""
    try:
        return Identity.of(os.stat(link.name, dir_fd=link.directory))
    except OSError:
        return None


def _ways_up(place: Place) -> set[Identity]:
    return set(ancestors(os.dup(place.directory)))


def _quoted(place: Place) -> str:
    return quoted(told(names.shown(place.path)))
