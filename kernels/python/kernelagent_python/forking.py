"""Processes made by fork on request: the requests, the fork itself, the child's first steps.

The server asks over a SOCK_SEQPACKET socket, one JSON object per packet, descriptors beside it:

    {"op": "kernel" | "park", "info", "connection_file", "marker", "env", "cwd", "force",
     "descriptors": [names]}                     names of the descriptors, in their order
    {"op": "forked", "pid"}                      the answer, with a process descriptor beside it
    {"op": "refused", "code", "reason"}          or this; nothing was made
    {"op": "begun"}                              a parked process, once it stands by itself

The descriptors are `channel` (the child's own such socket), `lifeline`, `stderr`, `group` (where it
joins a memory group, if there is one), and the listening sockets `shell`, `iopub`, `stdin`,
`control`, `hb` of a kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MARKER = "KERNELAGENT_PROCESS"
LISTENERS = ("shell", "iopub", "stdin", "control", "hb")

_LARGEST_PACKET = 256 * 1024
_MOST_DESCRIPTORS = 16
_MOMENT = 0.0002


@dataclass(slots=True)
class Request:
    """What a process is to be made for."""

    content: dict[str, Any]
    descriptors: dict[str, int] = field(default_factory=dict)

    @property
    def op(self) -> str:
        return str(self.content.get("op"))

    @property
    def listeners(self) -> dict[str, int]:
        """The listening sockets of a kernel, by channel."""
        return {
            name: descriptor for name, descriptor in self.descriptors.items() if name in LISTENERS
        }

    def close(self) -> None:
        """Close the descriptors, in a process that does not use them."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)


class Channel:
    """One end of the socket over which processes are asked for."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Request | None:
        """The next request; None when the other end is gone. Blocks."""
        packet, descriptors, _, _ = socket.recv_fds(
            self._socket, _LARGEST_PACKET, _MOST_DESCRIPTORS
        )
        if not packet:
            return None
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        content = json.loads(packet)
        names = content.get("descriptors", ())
        return Request(content, dict(zip(names, descriptors, strict=True)))

    def send(self, content: Mapping[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Answer; the other end may be gone."""
        try:
            socket.send_fds(self._socket, [json.dumps(content).encode()], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return

    def refuse(self, code: str, reason: str) -> None:
        """Say that nothing was made, and why."""
        self.send({"op": "refused", "code": code, "reason": reason})

    def close(self) -> None:
        self._socket.close()


def fork_child(channel: Channel) -> int | None:
    """Fork a child of this process and announce it; None in the child, else its id."""
    try:
        pid = os.fork()
    except OSError as error:
        channel.refuse("FORK_FAILED", f"the system refuses a new process: {error.strerror}")
        return -1
    if pid == 0:
        return None
    _announce(channel, pid)
    return pid


def fork_aside(channel: Channel) -> bool:
    """Fork a process that is no child of this one and has its random state; True in it.

    Its parent ends at once, so the system hands it to the fork server, which outlives this process
    and is not looked for when this one's descendants are ended.
    """
    state = random.getstate()
    try:
        between = os.fork()
    except OSError as error:
        channel.refuse("FORK_FAILED", f"the system refuses a new process: {error.strerror}")
        return False
    if between:
        os.waitpid(between, 0)
        return False
    me = os.getpid()
    try:
        pid = fork_child(channel)
    except BaseException:
        signal.raise_signal(signal.SIGKILL)
    if pid is not None:
        # No exit function may run: they are those of the process that was copied.
        signal.raise_signal(signal.SIGKILL)
    # As long as it has this parent, it is one of the descendants that end with the origin.
    while os.getppid() == me:
        time.sleep(_MOMENT)
    random.setstate(state)
    return True


def settle_native_threads() -> None:
    """Fork for nothing: OpenBLAS ends its threads before a fork, and starts them when needed."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _announce(channel: Channel, pid: int) -> None:
    # Opened by the parent, before anybody can reap the child and its id be given to another.
    descriptor = os.pidfd_open(pid)
    try:
        channel.send({"op": "forked", "pid": pid}, (descriptor,))
    finally:
        os.close(descriptor)


class Marker:
    """The slot in this process's first environment that tells whose process it is.

    The system shows what a process was started with, not what it has set since; a forked process
    writes its own mark into that memory.
    """

    def __init__(self) -> None:
        self._address = 0
        self._length = 0
        environ: Any = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
        prefix = f"{MARKER}=".encode()
        index = 0
        while environ[index]:
            address = environ[index] or 0
            entry = ctypes.string_at(address)
            if entry.startswith(prefix):
                self._address = address + len(prefix)
                self._length = len(entry) - len(prefix)
            index += 1

    def set(self, mark: str) -> None:
        """Make this process carry `mark`, and what it starts too."""
        if self._address and len(mark) == self._length:
            ctypes.memmove(self._address, mark.encode(), self._length)
        os.environ[MARKER] = mark


def begin_life(request: Request, marker: Marker) -> None:
    """What every forked process does first: a session of its own, its mark, its lifeline."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    marker.set(request.content["marker"])
    stderr = request.descriptors.pop("stderr")
    os.dup2(stderr, 2)
    os.close(stderr)
    _join_group(request.descriptors.pop("group", None))
    _hang_on(request.descriptors["lifeline"])


def _join_group(descriptor: int | None) -> None:
    # Quick only as long as there is one thread, and what is touched from now on counts.
    if descriptor is None:
        return
    try:
        os.write(descriptor, b"0")
    except OSError as error:
        os.write(2, f"the memory group cannot be joined: {error}\n".encode())
    finally:
        os.close(descriptor)


def _hang_on(lifeline: int) -> None:
    """Have the system kill this process's group when the server, with the other end, is gone.

    It needs neither a thread nor the interpreter lock, and does not care who the parent is.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    # The signal tells of changes only: the server may have gone before.
    gone = select.poll()
    gone.register(lifeline, select.POLLIN)
    if gone.poll(0):
        signal.raise_signal(signal.SIGKILL)
