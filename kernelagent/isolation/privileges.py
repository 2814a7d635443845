"""What a process may do by itself: no new privileges, few capabilities, another user."""

from __future__ import annotations

import ctypes
import os

from kernelagent.isolation import calls

# What a package manager and a server on a low port need; the system's own affairs, other processes
# and devices are none of these. NET_RAW would show what others send to the service, tokens too.
KEPT = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        10,  # NET_BIND_SERVICE
        18,  # SYS_CHROOT
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)
SWITCHING = frozenset({6, 7})  # SETGID, SETUID
_SETPCAP = 8
_VERSION_3 = 0x20080522


def capabilities() -> int:
    """The effective ones of this process, as bits."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def has(number: int) -> bool:
    """Whether this process has the capability `number`."""
    return bool(capabilities() >> number & 1)


def forbid_new_privileges() -> None:
    """No program that this process executes gives it more than it has."""
    calls.prctl("no_new_privs", calls.PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities(kept: frozenset[int]) -> None:
    """Drop all others, for good; raises OSError."""
    calls.prctl("capabilities", calls.PR_CAP_AMBIENT, calls.PR_CAP_AMBIENT_CLEAR_ALL)
    if has(_SETPCAP):
        for number in range(64):
            if number in kept:
                continue
            try:
                calls.prctl("capabilities", calls.PR_CAPBSET_DROP, number)
            except OSError:  # more than this system has
                break
    left = capabilities() & sum(1 << number for number in kept)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = left & 0xFFFFFFFF, left >> 32
    # Effective, permitted, inheritable: the lower halves, then the upper ones.
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    calls.syscall("capset", calls.number_of("capset"), ctypes.byref(header), ctypes.byref(sets))


def become(uid: int, gid: int) -> None:
    """Be another user, with no way back and no capability; raises OSError."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def hide_memory() -> None:
    """Keep this process's memory, environment and descriptors from others of its user."""
    calls.prctl("dumpable", calls.PR_SET_DUMPABLE, 0)


def memory_is_hidden() -> bool:
    """Whether `hide_memory` holds for this process."""
    return calls.prctl("dumpable", calls.PR_GET_DUMPABLE) == 0
