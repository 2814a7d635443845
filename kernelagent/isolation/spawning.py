"""The service's side of the spawner: started, asked for processes, replaced when it is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import kernelagent
from kernelagent.isolation.begin import FAILED, STARTED
from kernelagent.isolation.spawner import Layer, Orders, Request, pack
from kernelagent.processes.process import Program

log = logging.getLogger(__name__)

# A start takes about a millisecond; a system that is short of something takes longer.
_MOMENT = 0.25
_PATIENCE = 10.0
_OPENING = 20.0
# States of a process: by a signal, which what runs may send where it can; or dead as well.
_STOPPED = (b"T", b"t")
_HALTED = (*_STOPPED, b"Z", b"X")

_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kernelagent.isolation.spawner import main; main()"
)
# Without these an interpreter may not find its libraries; none of them is the service's own.
_NEEDED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")


class SpawnerLost(Exception):
    """It has ended or does not answer; nothing was started."""


class Spawner:
    """One spawner process; `close` is owed. Made on the loop's own thread.

    What it starts may ask to be ended with the thread that has made it.
    """

    def __init__(self, orders: Orders, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        *("-I", "-S", "-c", _PROGRAM),
                        str(Path(kernelagent.__file__).parent.parent),
                        str(theirs.fileno()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={
                        **{name: os.environ[name] for name in _NEEDED if name in os.environ},
                        **env,
                    },
                    cwd="/",
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            ours.send(json.dumps(orders).encode())
        except BaseException:
            ours.close()
            raise
        self._socket = ours
        # The most memory that a process can seem to use before it executes its program.
        self.floor = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> list[Layer]:
        """What it says of its layers; raises SpawnerLost. Blocks, for some 50 ms."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        deadline = time.monotonic() + _OPENING
        try:
            while not poll.poll(min(_MOMENT, _OPENING) * 1000):
                if time.monotonic() > deadline or _state_of(self.pid) in _STOPPED:
                    raise TimeoutError("it does not answer")
            packet = self._socket.recv(256 * 1024)
            layers = [Layer(*layer) for layer in json.loads(packet)]
        except (OSError, ValueError, TypeError) as error:
            raise SpawnerLost(f"it did not start: {error}") from error
        self.floor = _resident(self.pid)
        return layers

    def start(self, request: Request, descriptors: Sequence[int]) -> int:
        """The id of a new process, a child of ours; raises OSError, or SpawnerLost. Blocks."""
        report, far_report = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._send(request, [far_report, *descriptors])
            finally:
                os.close(far_report)
            told = self._read_report(report)
        finally:
            os.close(report)
        if not told:
            raise SpawnerLost("it has ended")
        (pid,) = STARTED.unpack_from(told)
        failure = told[STARTED.size :]
        if not failure:
            return int(pid)
        if pid:
            # It may have been stopped on its way out.
            _end(pid)
        in_place, number = FAILED.unpack(failure)
        if not pid:
            raise OSError(number, os.strerror(number))
        name = os.fsdecode(request.argv[0] if in_place else request.cwd)
        raise OSError(number, os.strerror(number), name)

    def close(self) -> None:
        """End it; what it has started goes on. May be repeated."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _send(self, request: Request, descriptors: list[int]) -> None:
        packet, apart = pack(request)
        memory = -1
        try:
            if apart:
                memory = os.memfd_create("request", os.MFD_CLOEXEC)
                with os.fdopen(os.dup(memory), "wb") as file:
                    file.write(apart)
                descriptors.insert(1, memory)
            try:
                self._socket.settimeout(_PATIENCE)
                socket.send_fds(self._socket, [packet], descriptors)
            except (BrokenPipeError, ConnectionError, TimeoutError) as error:
                raise SpawnerLost(f"it cannot be asked: {error}") from error
        finally:
            if memory >= 0:
                os.close(memory)

    def _read_report(self, report: int) -> bytes:
        """All that is told of a start: its end is the program's begin. b"" if nothing began."""
        told, deadline = b"", time.monotonic() + _PATIENCE
        ended: set[int] | None = None
        poll = select.poll()
        poll.register(report, select.POLLIN)
        while True:
            if poll.poll(_MOMENT * 1000):
                piece = os.read(report, 64)
                if piece:
                    told += piece
                    continue
                return b"" if told and STARTED.unpack_from(told)[0] in (ended or ()) else told
            late = time.monotonic() > deadline
            if told:
                (pid,) = STARTED.unpack_from(told)
                if late or ended is not None or _state_of(pid) in _STOPPED:
                    _end(pid)
                    raise TimeoutError(errno.ETIMEDOUT, "the process does not begin")
            elif ended is not None:
                raise SpawnerLost("it does not answer, nor end with what it has begun")
            if late or any(_state_of(pid) in _HALTED for pid in (self.pid, *self._unbegun())):
                log.warning("the process that starts others does not answer and is replaced")
                self._process.kill()
                self._process.wait()
                # These hold the report too. Who is not among them has told of itself.
                ended = self._unbegun()
                for pid in ended:
                    _end(pid)

    def _unbegun(self) -> set[int]:
        """Processes that it has made and that have done nothing: they are in its session still.

        All that has begun is in another, and nothing can enter this one.
        """
        ours, its = b"%d" % os.getpid(), b"%d" % self.pid
        ids = {int(path.name) for path in Path("/proc").glob("[1-9]*")} - {self.pid}
        return {pid for pid in ids if _stat_of(pid)[1:4:2] == [ours, its]}


def _stat_of(pid: int) -> list[bytes]:
    """State, parent, group, session and so on; nothing once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return []


def _state_of(pid: int) -> bytes:
    return next(iter(_stat_of(pid)), b"X")


def _end(pid: int) -> None:
    """Kill and reap a child for which nobody else waits; it is left if it takes its time."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(_MOMENT * 1000)
            os.waitpid(pid, os.WNOHANG)
        finally:
            os.close(pidfd)


def candidates(program: str, env: Mapping[str, str]) -> list[bytes]:
    """Where `program` is looked for, as `subprocess` does."""
    name = os.fsencode(program)
    if os.path.dirname(name):  # noqa: PTH120 - bytes
        return [name]
    return [os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env)]  # noqa: PTH118


def request_of(program: Program, numbers: Sequence[int], terminal: int) -> Request:
    """What `Spawner.start` takes; raises ValueError for what the system cannot take."""
    env, variables = program.variables, []
    for name, value in env.items():
        encoded = os.fsencode(name)
        if b"=" in encoded:
            raise ValueError("illegal environment variable name")
        variables.append(encoded + b"=" + os.fsencode(value))
    request = Request(
        os.fsencode(program.cwd),
        candidates(program.argv[0], env),
        [os.fsencode(argument) for argument in program.argv],
        variables,
        list(numbers),
        terminal,
    )
    if any(b"\0" in part for part in (request.cwd, *request.argv, *request.env)):
        raise ValueError("embedded null byte")
    return request


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
