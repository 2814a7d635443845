"""The process which starts everything that runs: it has put itself into every layer before.

What it starts is in the same layers, at no further cost. It makes siblings, not children: the
service waits for them, signals them and measures them as if it had started them itself. It holds
nothing of value and can be replaced at any time.

It is asked over a SOCK_SEQPACKET socket. The first packet is its orders as JSON (see `Orders`); the
answer is the list of layers. Each further packet, laid out by `pack`, asks for one process. The
descriptors beside it are a pipe for the report on it (see `Steps`) and its own.
"""

from __future__ import annotations

import array
import errno
import gc
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from kernelagent.isolation import calls, cover, landlock, privileges, seccomp
from kernelagent.isolation.begin import FAILED, STARTED, Steps

ACTIVE, MISSING, UNNEEDED = "active", "missing", "unneeded"

# A packet with more than this is in memory of its own, which is the first descriptor.
LARGEST_PACKET = 64 * 1024
_MOST_DESCRIPTORS = 250
# Counts of paths, arguments and variables; bytes that follow, in a memory of their own if the flag
# is set; the index of the descriptor that becomes the controlling terminal.
_HEAD = struct.Struct("=IIIQ?i")

_TIOCSCTTY = 0x540E


class Layer(NamedTuple):
    """One layer: whether it is in force, and what it does, or why it is not."""

    name: str
    state: str
    detail: str


class Orders(NamedTuple):
    """What a spawner is told first: paths that nothing may reach, and as whom processes run."""

    hidden: list[str]
    user: tuple[int, int] | None
    # Why there is no other user, if there is none.
    no_user: str
    # The secrets themselves, and the files of which no successor is hidden.
    secrets: list[str]
    bare: list[str]


class Request(NamedTuple):
    """One process: candidates for its program, all it is started with, numbers of descriptors."""

    cwd: bytes
    paths: list[bytes]
    argv: list[bytes]
    env: list[bytes]
    numbers: list[int]
    # Which of the descriptors becomes the controlling terminal; -1 is none.
    terminal: int


def pack(request: Request) -> tuple[bytes, bytes]:
    """A packet, and what follows in a memory of its own, if anything."""
    numbers = array.array("i", request.numbers).tobytes()
    parts = (request.cwd, *request.paths, *request.argv, *request.env)
    strings = b"\0".join(parts)
    apart = len(strings) > LARGEST_PACKET - 4096
    head = _HEAD.pack(
        len(request.paths),
        len(request.argv),
        len(request.env),
        len(strings),
        apart,
        request.terminal,
    )
    inline = struct.pack("=H", len(request.numbers)) + numbers
    return (head + inline, strings) if apart else (head + inline + strings, b"")


def unpack(packet: bytes, descriptors: list[int]) -> Request:
    """What `pack` was given; takes the memory out of `descriptors`."""
    paths, argv, env, size, apart, terminal = _HEAD.unpack_from(packet)
    (count,) = struct.unpack_from("=H", packet, _HEAD.size)
    begin = _HEAD.size + 2
    numbers = array.array("i")
    numbers.frombytes(packet[begin : begin + count * numbers.itemsize])
    strings = packet[begin + count * numbers.itemsize :]
    if apart:
        memory = descriptors.pop(0)
        try:
            strings = b""
            while len(strings) < size and (more := os.pread(memory, size, len(strings))):
                strings += more
        finally:
            os.close(memory)
    cwd, *parts = strings.split(b"\0")
    return Request(
        cwd,
        parts[:paths],
        parts[paths : paths + argv],
        parts[paths + argv : paths + argv + env],
        list(numbers),
        terminal,
    )


def main() -> None:
    """Serve at the socket whose number is the last argument."""
    control = socket.socket(fileno=int(sys.argv[-1]))
    control.set_inheritable(False)
    orders = Orders(*json.loads(control.recv(LARGEST_PACKET)))
    calls.restore_signals()
    os.chdir("/")
    layers = enter(orders)
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps(layers).encode(), socket.MSG_NOSIGNAL)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    while True:
        # `socket.recv_fds` leaves its flags out.
        packet, beside, _, _ = control.recvmsg(
            LARGEST_PACKET, socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            return
        descriptors = array.array("i")
        for _, _, data in beside:
            descriptors.frombytes(data)
        _serve(packet, list(descriptors), null, orders.user)


def _serve(packet: bytes, descriptors: list[int], null: int, user: tuple[int, int] | None) -> None:
    report = descriptors.pop(0)
    opened = [report]
    try:
        request = unpack(packet, descriptors)
        wanted = {0, 1, 2, *request.numbers}

        def out_of_the_way(descriptor: int) -> int:
            while descriptor in wanted:
                descriptor = os.dup(descriptor)
                opened.append(descriptor)
            return descriptor

        steps = Steps(out_of_the_way(report))
        steps.add("setsid")
        moved = [out_of_the_way(descriptor) for descriptor in descriptors]
        if request.terminal >= 0:
            steps.add("ioctl", moved[request.terminal], _TIOCSCTTY, 0)
        if user is not None:
            steps.add("setgroups", 0, 0)
            steps.add("setresgid", *(user[1],) * 3)
            steps.add("setresuid", *(user[0],) * 3)
        nothing = out_of_the_way(null)
        places = dict.fromkeys((0, 1, 2), nothing) | dict(zip(request.numbers, moved, strict=True))
        for number, descriptor in places.items():
            steps.add("dup3", descriptor, number, 0)
        steps.add("chdir", request.cwd)
        steps.execute(request.paths, request.argv, request.env)
        steps.begin()
    except OSError as error:
        os.write(report, STARTED.pack(0) + FAILED.pack(False, error.errno or errno.EIO))
    finally:
        for descriptor in (*opened, *descriptors):
            os.close(descriptor)


def enter(orders: Orders) -> list[Layer]:
    """Put this process into every layer that the system permits; what came of each."""
    runner = os.getuid() if orders.user is None else orders.user[0]
    covered, cover_layer = _enter_cover(orders, runner)
    layers = [_attempt("privileges", _forbid, "what runs gets no more rights than it begins with")]
    if orders.user is None:
        state = UNNEEDED if os.getuid() else MISSING
        layers.append(Layer("user", state, orders.no_user))
    else:
        layers.append(Layer("user", ACTIVE, f"processes run as user {orders.user[0]}"))
    kept = privileges.KEPT if runner == 0 else frozenset()
    if orders.user is not None:
        # Until a process has become that user.
        kept = privileges.SWITCHING
    layers.append(
        _attempt(
            "capabilities",
            lambda: privileges.keep_capabilities(kept),
            "those of the system's own affairs are dropped" if runner == 0 else "all are dropped",
        )
    )
    others = orders.user is not None and not _within_reach(orders, orders.user)
    if others and not covered:
        reason = f"the service's files are out of the other user's reach ({cover_layer.detail})"
        cover_layer = Layer("cover", UNNEEDED, reason)
    layers.append(cover_layer)
    layers.append(_enter_landlock([] if covered or others else orders.hidden, runner))
    layers.append(
        _attempt("seccomp", seccomp.install, "system calls that reach others are refused")
    )
    privileges.hide_memory()
    return layers


def _forbid() -> None:
    privileges.forbid_new_privileges()


def _attempt(name: str, act: Callable[[], None], does: str) -> Layer:
    try:
        act()
    except OSError as error:
        return Layer(name, MISSING, str(error.strerror or error))
    return Layer(name, ACTIVE, does)


def _enter_cover(orders: Orders, runner: int) -> tuple[bool, Layer]:
    hidden, is_root = orders.hidden, os.getuid() == 0
    reason = _try_cover(hidden, runner, is_root=is_root)
    if reason:
        return False, Layer("cover", MISSING, reason)
    cover.apply(hidden, runner, is_root=is_root)
    does = "the service's files are not there"
    if orders.bare:
        does += f"; until another takes its place, which must not be: {', '.join(orders.bare)}"
    return True, Layer("cover", ACTIVE, does)


def _try_cover(hidden: list[str], runner: int, *, is_root: bool) -> str:
    """Why it cannot be had, found out by a process that may be spoilt by it; "" if it can."""
    reader, writer = os.pipe()
    trial = os.fork()
    if trial == 0:
        try:
            cover.apply(hidden, runner, is_root=is_root)
            for path in hidden:
                if os.path.isdir(path) and os.listdir(path):
                    os.write(writer, b"the service's files are still seen")
        except BaseException as error:
            os.write(writer, str(error).encode()[:4096])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        reason = told.read().decode(errors="replace")
    _, status = os.waitpid(trial, 0)
    return reason or (f"the trial of it ended with status {status}" if status else "")


def _within_reach(orders: Orders, user: tuple[int, int]) -> bool:
    """Whether `user` could use one of the secrets, or move it away."""
    for path in orders.secrets:
        if _may_use(os.stat(path), user):
            return True
        above = path
        while above != "/":
            if cover.movable(above, user[0]):
                return True
            above = os.path.dirname(above)
    return False


def _may_use(facts: os.stat_result, user: tuple[int, int]) -> bool:
    # Whoever owns it changes its mode.
    asked = 0o077 if facts.st_gid == user[1] else 0o007
    return facts.st_uid == user[0] or bool(facts.st_mode & asked)


def _enter_landlock(hidden: list[str], runner: int) -> Layer:
    # Another user's signals do not reach the service.
    stood_in_for = runner != os.getuid()
    seen = ""
    try:
        abi = landlock.version()
        try:
            landlock.enclose(hidden, abi)
        except OSError as error:
            if not hidden:
                raise
            # It was the paths, or the second attempt fails too.
            seen = str(error.strerror or error)
            landlock.enclose([], abi)
    except OSError as error:
        state = UNNEEDED if stood_in_for and not hidden else MISSING
        return Layer("landlock", state, str(error.strerror or error))
    does = "signals and traces end at its border"
    if abi < landlock.WITH_SCOPES and not stood_in_for:
        does = f"its version {abi} does not stop signals, 6 does"
        if not seen:
            return Layer("landlock", MISSING, does)
    if seen:
        return Layer("landlock", MISSING, f"the service's files are not hidden: {seen}; {does}")
    if hidden:
        does += "; the service's files cannot be opened, but be listed, and get other modes"
    return Layer("landlock", ACTIVE, does)
