"""A process as a list of system calls: what it does until it executes its program.

A copy of the interpreter goes through the list. Nothing but the system's answer decides what it
does, so that whatever it reports is what the program would have met.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Any

from kernelagent.isolation import calls

_CLONE_PARENT, _SIGCHLD = 0x8000, 17
STARTED = struct.Struct("=i")
FAILED = struct.Struct("=?i")
_EXIT_CODE = 255

_NUMBERS = {
    "x86_64": {
        "ioctl": 16,
        "execve": 59,
        "chdir": 80,
        "setsid": 112,
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "dup3": 292,
    },
    "aarch64": {
        "dup3": 24,
        "ioctl": 29,
        "chdir": 49,
        "setresuid": 147,
        "setresgid": 149,
        "setsid": 157,
        "setgroups": 159,
        "execve": 221,
    },
}


class Steps:
    """What a process does from its first moment until it executes its program.

    To the pipe `report` goes its id, as `STARTED`, then `FAILED` if it has not come so far: whether
    only the program could not be executed, and the errno. The end of the pipe without that says
    that the program has begun.
    """

    def __init__(self, report: int) -> None:
        self._report = report
        self._numbers = _NUMBERS[calls.MACHINE]
        self._calls: list[tuple[int, tuple[int, ...]]] = []
        self._programs = 0
        # Memory that the addresses among the arguments stand for.
        self._kept: list[Any] = []

    def add(self, name: str, *arguments: int | bytes) -> None:
        """A system call; if it fails, the process ends."""
        self._calls.append((self._numbers[name], tuple(map(self._long, arguments))))

    def execute(self, paths: Sequence[bytes], argv: Sequence[bytes], env: Sequence[bytes]) -> None:
        """Execute the first of `paths` that can be; comes last."""
        vectors = (self._vector(argv), self._vector(env))
        for path in paths:
            self.add("execve", path, *vectors)
        self._programs = len(paths)

    def begin(self) -> None:
        """Make the process; raises OSError."""
        if (
            calls.syscall("clone", calls.number_of("clone"), _CLONE_PARENT | _SIGCHLD, 0, 0, 0, 0)
            == 0
        ):
            try:
                self._go_through()
            finally:
                os._exit(_EXIT_CODE)

    def _go_through(self) -> None:
        # First of all, so that it is known of whatever becomes of the one that makes it.
        os.write(self._report, STARTED.pack(os.getpid()))
        programs = len(self._calls) - self._programs
        told = last = 0
        for index, (number, arguments) in enumerate(self._calls):
            result = calls.raw_syscall(number, *arguments)
            if result >= 0:
                continue
            if index < programs:
                os.write(self._report, FAILED.pack(False, -result))
                return
            # After a program that cannot be executed comes the next one.
            last = -result
            if last not in (errno.ENOENT, errno.ENOTDIR):
                told = last
        os.write(self._report, FAILED.pack(True, told or last))

    def _long(self, value: int | bytes) -> int:
        if isinstance(value, int):
            return value
        buffer = ctypes.create_string_buffer(value)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _vector(self, strings: Sequence[bytes]) -> int:
        vector = (ctypes.c_char_p * (len(strings) + 1))(*strings, None)
        self._kept.append(vector)
        return ctypes.addressof(vector)
