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

log = logging.getLogger(__name__)

# A start takes about a millisecond; a system that is short of something takes longer.
_MOMENT = 0.25
_PATIENCE = 10.0
_OPENING = 20.0

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
        self._socket.settimeout(_OPENING)
        try:
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
            os.waitpid(pid, 0)
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
        """All that is told of a start: its end is the program's begin."""
        told, deadline, wait = b"", time.monotonic() + _PATIENCE, _MOMENT
        poll = select.poll()
        poll.register(report, select.POLLIN)
        while True:
            if poll.poll(wait * 1000):
                piece = os.read(report, 64)
                if not piece:
                    return told
                told += piece
                continue
            wait = max(deadline - time.monotonic(), 0)
            if not told and (wait == 0 or self._is_stopped()):
                # Once it is gone, so is what it has not begun yet: the report ends in any case.
                log.warning("the process that starts others does not answer and is replaced")
                self._process.kill()
                self._process.wait()
            elif wait == 0:
                _give_up(STARTED.unpack_from(told)[0])
                raise TimeoutError(errno.ETIMEDOUT, "the process does not begin")

    def _is_stopped(self) -> bool:
        """Whether it is dead, or halted by a signal, which what runs may send where it can."""
        stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        return stat.rpartition(b") ")[2][:1] in b"TtZX"


def _give_up(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)


def candidates(program: str, env: Mapping[str, str]) -> list[bytes]:
    """Where `program` is looked for, as `subprocess` does."""
    name = os.fsencode(program)
    if os.path.dirname(name):  # noqa: PTH120 - bytes
        return [name]
    return [os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env)]  # noqa: PTH118


def request_of(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, numbers: Sequence[int], terminal: int
) -> Request:
    """What `Spawner.start` takes; raises ValueError for what the system cannot take."""
    variables = []
    for name, value in env.items():
        encoded = os.fsencode(name)
        if b"=" in encoded:
            raise ValueError("illegal environment variable name")
        variables.append(encoded + b"=" + os.fsencode(value))
    request = Request(
        os.fsencode(cwd),
        candidates(argv[0], env),
        [os.fsencode(argument) for argument in argv],
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
