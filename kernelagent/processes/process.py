"""Start a process in a group of its own, notice its end at once, leave nothing of it behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from kernelagent.processes.usage import tree

# In the environment of each process that we start and so of all its descendants: it finds the
# ones that left the process group (setsid, daemons).
MARKER = "KERNELAGENT_PROCESS"
# The same for all processes of one server: after a crash its successor ends what is left of them.
SERVER = "KERNELAGENT_SERVER"

_STDERR_TAIL = 16 * 1024
_KILL_TIMEOUT = 5.0
# Makes a session whose controlling terminal is its stdin, then becomes the program that follows.
# Run by the child itself, it would have to be forked with all of the service's memory.
_SETSID = (shutil.which("setsid") or "setsid", "-c", "--")


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: an exit code, or the number of the signal that ended it."""

    code: int | None = None
    signal: int | None = None

    @classmethod
    def unpack(cls, status: int) -> ExitStatus:
        """From what waitpid gives."""
        code = os.waitstatus_to_exitcode(status)
        return cls(code=code) if code >= 0 else cls(signal=-code)

    def describe(self) -> str:
        """A phrase such as "exit code 3" or "signal 9 (SIGKILL)"."""
        if self.signal is None and self.code is None:
            return "an unknown status"
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = "unknown"
        return f"signal {self.signal} ({name})"


class RunningProcess:
    """A process in a session of its own; ended by `kill`, which must be awaited in any case.

    A subclass says how the process's status is collected once `pidfd` tells that it has ended.
    Takes both descriptors over.
    """

    def __init__(self, pid: int, pidfd: int, stderr_fd: int, marker: str) -> None:
        self.pid = pid
        self._marker = marker
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._stderr_tail = bytearray()
        self._pinned: list[int] = []
        self._pidfd = pidfd
        self._stderr_fd = stderr_fd
        self._loop.add_reader(pidfd, self._on_exit)
        if stderr_fd >= 0:
            os.set_blocking(stderr_fd, False)
            self._loop.add_reader(stderr_fd, self._on_stderr)

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet, as far as it was noticed."""
        return not self.exited.done()

    @property
    def stderr_tail(self) -> str:
        """The end of what the process itself wrote to stderr."""
        self._on_stderr()
        return bytes(self._stderr_tail).decode("utf-8", "replace")

    def send_signal(self, number: int, *, group: bool = False) -> None:
        """Signal the process, or its whole group; nothing happens if it has ended."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            if group:
                try:
                    os.killpg(self.pid, number)
                except ProcessLookupError:
                    # It has not come to making its group yet.
                    signal.pidfd_send_signal(self._pidfd, number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)

    async def pin_descendants(self) -> None:
        """Take hold of the descendants of now, so that `kill` finds them when their parent is gone.

        It finds those that neither the group nor the marker does: a child in a session and with an
        environment of its own.
        """
        if self.running:
            self._pinned += await asyncio.to_thread(_descendants, self.pid)

    async def outlast_descendants(self, seconds: float) -> None:
        """Wait until those taken hold of have ended, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(self._until_ended, self._pinned))

    async def kill(self) -> None:
        """End the process and every descendant, those in other sessions too; may be repeated."""
        await self.pin_descendants()
        try:
            self.send_signal(signal.SIGKILL, group=True)
            await asyncio.shield(self.exited)
        finally:
            pinned, self._pinned = self._pinned, []
            await asyncio.to_thread(kill_pinned, pinned)
        await asyncio.to_thread(kill_marked, self._marker)

    def collect(self) -> None:
        """Called once when the process has ended: `settle` is owed, now or soon."""
        raise NotImplementedError

    def settle(self, status: ExitStatus) -> None:
        """The process has ended with `status`."""
        self._on_stderr()
        if self._stderr_fd >= 0:
            self._loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1
        if not self.exited.done():
            self.exited.set_result(status)

    async def _until_ended(self, pidfd: int) -> None:
        ended = asyncio.Event()
        self._loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(pidfd)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.collect()

    def _on_stderr(self) -> None:
        if self._stderr_fd < 0:
            return
        # A bounded number of reads: a child that floods stderr must not hold the loop.
        for _ in range(16):
            try:
                data = os.read(self._stderr_fd, 65536)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._stderr_fd)
                return
            self._stderr_tail += data
            del self._stderr_tail[:-_STDERR_TAIL]


@dataclass(frozen=True, slots=True)
class Program:
    """A program to be started in a session of its own.

    `marker` finds it and all its descendants again. `descriptors` are ours by the numbers that they
    have in the child; of stdin, stdout and stderr those that are not given are the null device.
    `terminal`, one of them, becomes its controlling terminal.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    marker: str
    descriptors: Mapping[int, int] = field(default_factory=dict)
    terminal: int | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Its whole environment."""
        return {**self.env, MARKER: self.marker}

    def on_terminal(self, terminal: int) -> Program:
        """Return this program on `terminal`, the program's end of a pseudo-terminal."""
        return replace(self, descriptors=dict.fromkeys(range(3), terminal), terminal=terminal)


class Starter(Protocol):
    """Starts the program of a child process."""

    @property
    def floor(self) -> int:
        """Memory in bytes that a child seems to have used before it executes its program."""

    def start(self, program: Program) -> int:
        """Return its process id, for which the caller waits; raise OSError, ValueError.

        Called on the loop's own thread.
        """


class _PlainStarter:
    """Starts processes as this one's own, with all that it may do itself."""

    @property
    def floor(self) -> int:
        # Until it has replaced it by its own, a child has this process's memory.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def start(self, program: Program) -> int:
        argv, descriptors = program.argv, program.descriptors
        has_terminal = program.terminal is not None
        popen = subprocess.Popen(
            (*_SETSID, *argv) if has_terminal else argv,
            stdin=descriptors.get(0, subprocess.DEVNULL),
            stdout=descriptors.get(1, subprocess.DEVNULL),
            stderr=descriptors.get(2, subprocess.DEVNULL),
            env=program.variables,
            # Errors name it as it is told here.
            cwd=str(program.cwd),
            start_new_session=not has_terminal,
            pass_fds=[number for number in descriptors if number > 2],
        )
        # Or it would wait itself, for whatever has the id by then.
        popen.returncode = 0
        return popen.pid


PLAIN: Starter = _PlainStarter()


class ChildProcess(RunningProcess):
    """A child of this process; made by `start`."""

    def __init__(self, pid: int, stderr_fd: int, marker: str, floor: int) -> None:
        # CPU seconds and most bytes of memory, 0 if that is not known, once it has ended; of its
        # children those it saw end.
        self.usage: tuple[float, int] | None = None
        self._floor = floor
        super().__init__(pid, os.pidfd_open(pid), stderr_fd, marker)

    @classmethod
    def start(cls, program: Program, starter: Starter = PLAIN) -> ChildProcess:
        """Start `program` as the leader of a new session; raise OSError, ValueError.

        The last 16 KiB of stderr are kept if the program has no descriptor for it. Called on the
        loop's own thread: the child may ask to be killed when the thread that started it ends.
        """
        stderr_fd = far_stderr = -1
        if 2 not in program.descriptors:
            stderr_fd, far_stderr = os.pipe2(os.O_CLOEXEC)
            program = replace(program, descriptors={**program.descriptors, 2: far_stderr})
        try:
            floor = starter.floor
            pid = starter.start(program)
            try:
                return cls(pid, stderr_fd, program.marker, floor)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except BaseException:
            if stderr_fd >= 0:
                os.close(stderr_fd)
            raise
        finally:
            if far_stderr >= 0:
                os.close(far_stderr)

    def collect(self) -> None:
        # The zombie still holds its id, so this can hit nobody else's group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, used = os.wait4(self.pid, 0)
        # What it may have used of less than it began with, nobody knows.
        memory = used.ru_maxrss * 1024
        self.usage = (used.ru_utime + used.ru_stime, memory if memory > self._floor else 0)
        self.settle(ExitStatus.unpack(status))


def describe_refusal(argv: Sequence[str], error: OSError | ValueError) -> str:
    """Why `ChildProcess.start` could not start `argv`, for people."""
    told = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{argv[0]} could not be started: {told}"


def kill_marked(marker: str, variable: str = MARKER) -> int:
    """End every process that carries `marker`, wherever it moved to; returns their number.

    Blocks on /proc and until they have ended, so it is called in a thread.
    """
    wanted = f"{variable}={marker}".encode()
    killed: set[int] = set()
    pinned: list[int] = []
    # One that hangs inside the system cannot be ended: not waited for without end.
    deadline = time.monotonic() + _KILL_TIMEOUT
    # Repeated until a pass finds none: one of them may have forked in between.
    while found := _carriers(wanted):
        killed |= found.keys()
        pinned += found.values()
        for pidfd in found.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
    # One that is ending carries nothing any more.
    kill_pinned(pinned)
    return len(killed)


def _carriers(wanted: bytes) -> dict[int, int]:
    """Ids and descriptors of the processes that have a variable."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            pid = int(entry.name)
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                try:
                    is_one = wanted in (entry / "environ").read_bytes().split(b"\0")
                    if is_one and not _is_zombie(entry):
                        found[pid] = os.dup(pidfd)
                finally:
                    os.close(pidfd)
    return found


def _descendants(pid: int) -> list[int]:
    """Process descriptors, which stay right whatever happens to the ids."""
    pinned = []
    for member in tree(pid)[1:]:
        with contextlib.suppress(OSError):
            pinned.append(os.pidfd_open(member))
    return pinned


def kill_pinned(pinned: list[int]) -> None:
    """Kill what the descriptors hold, wait until it has ended, and close them."""
    deadline = time.monotonic() + _KILL_TIMEOUT
    for pidfd in pinned:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in pinned:
        # Readable once the process has ended.
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        ended.poll(max(deadline - time.monotonic(), 0) * 1000)
        os.close(pidfd)


def _is_zombie(entry: Path) -> bool:
    return b") Z " in (entry / "stat").read_bytes()


def raise_descriptor_limit(wanted: int) -> int:
    """Let this process open `wanted` files if it may; the limit it has then.

    Each kernel takes about ten, and many systems allow a thousand unless asked.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
