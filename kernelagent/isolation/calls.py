"""System calls for which Python has no function."""

from __future__ import annotations

import ctypes
import os

MACHINE = os.uname().machine

# The same on every architecture, as all that are newer than 2019.
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

_NUMBERS = {
    "x86_64": {"clone": 56, "capset": 126, "seccomp": 317},
    "aarch64": {"clone": 220, "capset": 91, "seccomp": 277},
}

PR_SET_DUMPABLE, PR_GET_DUMPABLE = 4, 3
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19

CLONE_PARENT, CLONE_NEWNS, CLONE_NEWUSER = 0x8000, 0x20000, 0x10000000

# Holds the interpreter's lock throughout: after `clone` there is nobody to take it from.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.signal.restype = ctypes.c_void_p
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def number_of(name: str) -> int:
    """The number of a system call; raises OSError on an unknown architecture."""
    try:
        return _NUMBERS[MACHINE][name]
    except KeyError:
        raise OSError(38, f"{name} is not known on {MACHINE}") from None


def syscall(what: str, number: int, *arguments: object) -> int:
    """Call the system; integers are passed as long, the rest as ctypes does. Raises OSError."""
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        raise _error(what)
    return result


def raw_syscall(number: int, *arguments: int) -> int:
    """The same, but the result is -errno on failure."""
    result = int(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))
    return -ctypes.get_errno() if result < 0 else result


def prctl(what: str, option: int, *arguments: int) -> int:
    """Set or ask for a property of this process; raises OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    result = int(_libc.prctl(option, *map(ctypes.c_ulong, padded)))
    if result < 0:
        raise _error(what)
    return result


def unshare(flags: int) -> None:
    """Leave namespaces; raises OSError."""
    if _libc.unshare(flags):
        raise _error("unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount something; raises OSError."""
    if _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    ):
        raise _error(f"mount on {target}")


def set_read_only(path: str) -> None:
    """Make what is mounted at `path`, and all below it, read-only; raises OSError."""
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
    syscall(
        f"mount_setattr of {path}",
        MOUNT_SETATTR,
        -100,
        os.fsencode(path),
        0x8000,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )


def restore_signals() -> None:
    """Undo what the interpreter made of signals, which a program would inherit from it."""
    for number in (13, 25):  # SIGPIPE, SIGXFSZ
        _libc.signal(number, None)
    # Who ignores SIGINT when an interpreter begins ignores it on purpose.
    if _libc.signal(2, None) == 1:
        _libc.signal(2, ctypes.c_void_p(1))
