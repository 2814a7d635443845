"""A filter of system calls: what looks into other processes or changes the system is refused."""

from __future__ import annotations

import ctypes
import errno
import struct

from kernelagent.isolation import calls

# Names, with their numbers on x86_64 and aarch64.
REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "lookup_dcookie": (212, 18),
}
# What a terminal would take for typed: it reaches whoever reads from it next.
_REFUSED_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

_ARCHITECTURES = {"x86_64": (0xC000003E, 0, 16), "aarch64": (0xC00000B7, 1, 29)}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _SECOND_ARGUMENT = 0, 4, 24
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM

_SET_MODE_FILTER, _FLAG_SPEC_ALLOW = 1, 4


def program(machine: str = calls.MACHINE) -> bytes:
    """The filter as instructions for the kernel; raises OSError on an unknown architecture.

    Programs of another architecture (32-bit ones) get nothing done, or they would pass under it.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"there is no filter for {machine}")
    arch, column, ioctl = _ARCHITECTURES[machine]
    numbers = sorted(number for pair in REFUSED.values() if (number := pair[column]) is not None)
    instructions: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        instructions += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    # Jumps are relative; the last two instructions allow and refuse.
    after = 3 + len(_REFUSED_IOCTLS)
    for index, number in enumerate(numbers):
        to_refuse = (len(numbers) - index - 1) + after
        instructions.append((_EQUAL, to_refuse, 0, number))
    instructions.append((_EQUAL, 0, 1 + len(_REFUSED_IOCTLS), ioctl))
    instructions.append((_LOAD, 0, 0, _SECOND_ARGUMENT))
    for index, request in enumerate(_REFUSED_IOCTLS):
        instructions.append((_EQUAL, len(_REFUSED_IOCTLS) - index, 0, request))
    instructions += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> None:
    """Filter this process and all that it starts; new privileges are forbidden. Raises OSError."""
    code = ctypes.create_string_buffer(program())
    filter_ = _Program(len(code) // 8, ctypes.addressof(code))
    # Without the flag, older systems slow every filtered process down.
    calls.syscall(
        "seccomp",
        calls.number_of("seccomp"),
        _SET_MODE_FILTER,
        _FLAG_SPEC_ALLOW,
        ctypes.byref(filter_),
    )
