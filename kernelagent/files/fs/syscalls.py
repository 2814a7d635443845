"""System calls that the standard library lacks: openat2, renameat2."""

from __future__ import annotations

import ctypes
import errno
import functools
import os

# The same on every architecture.
_OPENAT2 = 437

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_RENAME_NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open `path`, which may leave `directory` at no step of the way, magic links neither.

    Raises OSError: EXDEV where it would leave, ENOSYS where the system cannot tell.
    """
    return _openat2(directory, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)


def open_without_links(path: str, flags: int) -> int:
    """Open the absolute `path`, of which no part may be a symbolic link; raises OSError."""
    if can_openat2():
        return _openat2(-100, path, flags, _RESOLVE_NO_SYMLINKS)
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in filter(None, path.split("/")):
        try:
            below = os.open(
                name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor
            )
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    descriptor: int = _libc.syscall(
        _OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    if descriptor < 0:
        raise _error(path)
    return descriptor


@functools.cache
def can_openat2() -> bool:
    """Whether the system has openat2 (Linux 5.6) and lets us call it."""
    try:
        os.close(_openat2(-100, "/", os.O_PATH, _RESOLVE_NO_SYMLINKS))
    except OSError:
        # A filter of system calls that does not know it says EPERM.
        return False
    return True


def rename_new(name: str, new_name: str, *, directory: int, new_directory: int) -> None:
    """Rename, unless the new name exists: FileExistsError.

    Where the system cannot do both at once, another's file of that moment may be replaced.
    """
    result = _libc.renameat2(
        directory, os.fsencode(name), new_directory, os.fsencode(new_name), _RENAME_NOREPLACE
    )
    if result == 0:
        return
    error = _error(new_name)
    if error.errno not in (errno.EINVAL, errno.ENOSYS):
        raise error
    try:
        os.stat(new_name, dir_fd=new_directory, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
