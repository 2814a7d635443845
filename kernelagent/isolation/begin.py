"""A process as a list of system calls: made as cheaply as the system can.

A copy of an interpreter takes a millisecond to make, to run in and to throw away. A process that
shares the memory of the one that makes it, which waits meanwhile, takes a tenth of that; but no
interpreter can run in it. So what it does until it executes its program is a list of system calls,
and a few instructions that make one after the other. Where there are none for the machine, a copy
of the interpreter goes through the list.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

from kernelagent.isolation import calls

_CLONE_VM, _CLONE_VFORK, _CLONE_PARENT, _SIGCHLD = 0x100, 0x4000, 0x8000, 17
_FLAGS = _CLONE_PARENT | _SIGCHLD
STARTED = struct.Struct("=i")
FAILED = struct.Struct("=?i")
_UNTOUCHED = 1 << 62
_EXIT_CODE = 255

# long begin(struct step *steps, long flags): the id of the process, or -errno. In it, where no
# instruction writes to the stack that it shares:
#         push rbx; mov rbx, rdi; mov rdi, rsi
#         xor esi, esi; xor edx, edx; xor r10d, r10d; xor r8d, r8d
#         mov eax, 56; syscall                              clone(flags, 0, 0, 0, 0)
#         test rax, rax; jz step; pop rbx; ret
# step:   mov rax, [rbx]; mov rdi, [rbx+8]; mov rsi, [rbx+16]
#         mov rdx, [rbx+24]; mov r10, [rbx+32]; mov r8, [rbx+40]
#         syscall; mov [rbx+48], rax; test rax, rax; js failed
#         add rbx, 64; jmp step
# failed: mov rbx, [rbx+56]; jmp step
_INSTRUCTIONS = {
    "x86_64": bytes.fromhex(
        "534889fb4889f731f631d24531d24531c0b8380000000f054885c074025bc3"
        "488b03488b7b08488b7310488b53184c8b53204c8b43280f054889433048"
        "85c078064883c340ebd8488b5b38ebd2"
    )
}

_NUMBERS = {
    "x86_64": {
        "write": 1,
        "ioctl": 16,
        "getpid": 39,
        "execve": 59,
        "chdir": 80,
        "setsid": 112,
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "exit_group": 231,
        "dup3": 292,
    },
    "aarch64": {
        "dup3": 24,
        "ioctl": 29,
        "chdir": 49,
        "write": 64,
        "exit_group": 94,
        "setresuid": 147,
        "setresgid": 149,
        "setsid": 157,
        "setgroups": 159,
        "getpid": 172,
        "execve": 221,
    },
}


class _Step(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_long),
        ("arguments", ctypes.c_long * 5),
        ("result", ctypes.c_long),
        ("on_failure", ctypes.c_void_p),
    )


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
        self._steps: Any = None
        # First of all, so that it is known of whatever becomes of the one that makes it.
        self.add("getpid")
        self.add("write", report, 0, STARTED.size)

    def add(self, name: str, *arguments: int | bytes) -> None:
        """A system call; if it fails, the process ends."""
        self._calls.append((self._numbers[name], tuple(map(self._long, arguments))))

    def execute(self, paths: Sequence[bytes], argv: Sequence[bytes], env: Sequence[bytes]) -> None:
        """Execute the first of `paths` that can be; comes last."""
        vectors = (self._vector(argv), self._vector(env))
        for path in paths:
            self.add("execve", path, *vectors)
        self._programs = len(paths)

    def begin(self, *, natively: bool = True) -> None:
        """Make the process; raises OSError."""
        self.add("exit_group", _EXIT_CODE)
        count = len(self._calls)
        steps = self._steps = (_Step * count)()
        first, size = ctypes.addressof(steps), ctypes.sizeof(_Step)
        for index, (number, arguments) in enumerate(self._calls):
            step = steps[index]
            step.number, step.result = number, _UNTOUCHED
            step.arguments[: len(arguments)] = arguments
            # After a program that cannot be executed comes the next one, else the end.
            is_program = count - 1 - self._programs <= index < count - 1
            step.on_failure = first + size * (index + 1 if is_program else count - 1)
        # What `write` shows is the result of `getpid`.
        steps[1].arguments[1] = first + _Step.result.offset
        if not natively or _begin is None:
            if calls.syscall("clone", calls.number_of("clone"), _FLAGS, 0, 0, 0, 0) == 0:
                self._go_through()
            return
        made = int(_begin(first, _FLAGS | _CLONE_VM | _CLONE_VFORK))
        if made < 0:
            raise OSError(-made, os.strerror(-made))
        self._tell_failure()

    def _go_through(self) -> None:
        try:
            for index, step in enumerate(self._steps[:-1]):
                step.result = calls.raw_syscall(step.number, *step.arguments)
                if step.result < 0 and index < len(self._calls) - 1 - self._programs:
                    break
            self._tell_failure()
        finally:
            os._exit(_EXIT_CODE)

    def _tell_failure(self) -> None:
        programs = len(self._calls) - 1 - self._programs
        told = last = 0
        for index, step in enumerate(self._steps[:-1]):
            if step.result == _UNTOUCHED:
                return
            if step.result < 0:
                if index < programs:
                    os.write(self._report, FAILED.pack(False, -step.result))
                    return
                last = -step.result
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


def _make_begin() -> Any:
    """The instructions as a function; None where there are none, or the system wants none."""
    code = _INSTRUCTIONS.get(calls.MACHINE)
    if code is None:
        return None
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        memory.write(code)
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        calls.protect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
    except OSError:
        return None
    # Holds the interpreter's lock: there is nobody who could use it meanwhile.
    function = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_long)(address)
    _memory.append((memory, view))
    return function


_memory: list[Any] = []
_begin = _make_begin()
