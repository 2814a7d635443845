"""Landlock: a domain around all that runs, from which nothing reaches out of it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence

from kernelagent.isolation import calls

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_BLOCK = 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

# From which version on there is what.
_WITH_REFER, _WITH_TRUNCATE, _WITH_IOCTL, WITH_SCOPES = 2, 3, 5, 6


def version() -> int:
    """What of Landlock this system has; raises OSError if nothing."""
    try:
        return calls.syscall("landlock", calls.LANDLOCK_CREATE_RULESET, 0, 0, 1)
    except OSError as error:
        reasons = {
            errno.ENOSYS: "the system does not have it",
            errno.EOPNOTSUPP: "it is turned off in this system",
            errno.EPERM: "it is forbidden here",
        }
        raise OSError(error.errno, reasons.get(error.errno or 0, str(error))) from None


def enclose(hidden: Sequence[str], abi: int) -> None:
    """Put this process and all that it starts into one domain; raises OSError.

    Within it processes signal and reach one another, and nothing else where `abi` allows. Of the
    directories above the paths in `hidden`, only their entries of now, other than these, are open
    to them, and nothing can be made in the directories themselves.
    """
    scopes = _ABSTRACT_SOCKETS | _SIGNALS if abi >= WITH_SCOPES else 0
    if hidden:
        handled = _all_rights(abi)
    elif scopes:
        handled = 0
    elif abi >= _WITH_REFER:
        # Any domain shields those outside from being traced; one must ask for something.
        handled = _MAKE_BLOCK | _REFER
    else:
        raise OSError(errno.EOPNOTSUPP, f"version {abi} would forbid too much")
    attributes = (ctypes.c_uint64 * 3)(handled, 0, scopes)
    size = 24 if abi >= WITH_SCOPES else 8
    ruleset = calls.syscall(
        "landlock", calls.LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0
    )
    try:
        if hidden:
            for path, above in _open_paths("/", {os.path.realpath(path) for path in hidden}):
                _allow(ruleset, path, handled & _READ_DIR if above else handled)
        elif handled:
            _allow(ruleset, "/", _REFER)
        calls.syscall("landlock", calls.LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _all_rights(abi: int) -> int:
    rights = (1 << 13) - 1
    for since, right in (
        (_WITH_REFER, _REFER),
        (_WITH_TRUNCATE, _TRUNCATE),
        (_WITH_IOCTL, _IOCTL_DEV),
    ):
        if abi >= since:
            rights |= right
    return rights


def _open_paths(above: str, hidden: set[str]) -> Iterator[tuple[str, bool]]:
    """What is to be open, and whether it is a directory above something hidden."""
    yield above, True
    try:
        names = os.listdir(above)
    except OSError as error:
        raise OSError(error.errno, f"{above} cannot be listed") from error
    for name in names:
        path = os.path.join(above, name)
        if path in hidden or os.path.islink(path):
            continue
        if any(other.startswith(path + "/") for other in hidden):
            yield from _open_paths(path, hidden)
        else:
            yield path, False


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it has gone, or is out of reach anyway
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            rights &= _OF_FILES
        # struct landlock_path_beneath_attr is packed: 8 bytes of rights, 4 of the descriptor.
        rule = ctypes.create_string_buffer(
            rights.to_bytes(8, "little") + descriptor.to_bytes(4, "little"), 12
        )
        calls.syscall("landlock", calls.LANDLOCK_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
