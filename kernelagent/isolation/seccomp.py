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

# A socket that is shown all that others send and receive, tokens of the service too.
_AF_PACKET = 17

# The filter's name of the architecture, the column above, the numbers of ioctl, prlimit64, socket.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0, 16, 302, 41), "aarch64": (0xC00000B7, 1, 29, 261, 198)}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCH = 0, 4
_FIRST, _SECOND, _THIRD, _THIRD_UPPER = 16, 24, 32, 36  # arguments, their lower halves
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM

_SET_MODE_FILTER, _FLAG_SPEC_ALLOW = 1, 4


def program(machine: str = calls.MACHINE) -> bytes:
    """The filter as instructions for the kernel; raises OSError on an unknown architecture.

    Programs of another architecture (32-bit ones) get nothing done, or they would pass under it.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"there is no filter for {machine}")
    arch, column, ioctl, prlimit, socket = _ARCHITECTURES[machine]
    code = _Code()
    code.add(_LOAD, _ARCH)
    code.add(_EQUAL, arch, otherwise="refuse")
    code.add(_LOAD, _NUMBER)
    if machine == "x86_64":
        code.add(_AT_LEAST, _X32, then="refuse")
    code.add(_EQUAL, ioctl, then="ioctl")
    code.add(_EQUAL, prlimit, then="prlimit")
    code.add(_EQUAL, socket, then="socket")
    for pair in REFUSED.values():
        if (number := pair[column]) is not None:
            code.add(_EQUAL, number, then="refuse")
    code.add(_RETURN, _ALLOW)
    code.mark("ioctl")
    code.add(_LOAD, _SECOND)
    for request in _REFUSED_IOCTLS:
        code.add(_EQUAL, request, then="refuse")
    code.add(_RETURN, _ALLOW)
    code.mark("socket")
    code.add(_LOAD, _FIRST)
    code.add(_EQUAL, _AF_PACKET, then="refuse")
    code.add(_RETURN, _ALLOW)
    # A limit of another process must not be set: without descriptors the service would stop.
    code.mark("prlimit")
    code.add(_LOAD, _FIRST)
    code.add(_EQUAL, 0, then="allow")
    code.add(_LOAD, _THIRD)
    code.add(_EQUAL, 0, otherwise="refuse")
    code.add(_LOAD, _THIRD_UPPER)
    code.add(_EQUAL, 0, otherwise="refuse")
    code.mark("allow")
    code.add(_RETURN, _ALLOW)
    code.mark("refuse")
    code.add(_RETURN, _REFUSE)
    return code.assemble()


class _Code:
    """Instructions whose jumps, all of them forward, are named."""

    def __init__(self) -> None:
        self._instructions: list[tuple[int, str, str, int]] = []
        self._marks: dict[str, int] = {}

    def add(self, operation: int, value: int, *, then: str = "", otherwise: str = "") -> None:
        """Go to `then` or `otherwise` after a comparison; without names, to what follows."""
        self._instructions.append((operation, then, otherwise, value))

    def mark(self, name: str) -> None:
        """Name what comes next."""
        self._marks[name] = len(self._instructions)

    def assemble(self) -> bytes:
        """As the kernel takes it."""

        def distance(index: int, name: str) -> int:
            return self._marks[name] - index - 1 if name else 0

        return b"".join(
            struct.pack("=HBBI", operation, distance(index, then), distance(index, other), value)
            for index, (operation, then, other, value) in enumerate(self._instructions)
        )


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
