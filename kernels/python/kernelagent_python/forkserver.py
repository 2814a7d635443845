"""The fork server: a process that has imported everything and forks kernels on request.

It makes no thread, no event loop and no ZeroMQ context, runs no user code, and is the parent of
every kernel, those too that were branched from a kernel. To the server it says besides what
`forking` describes:

    {"op": "ready", "kernel": "lean" | "stock", "modules": n}
    {"op": "failed", "reason"}                   it cannot serve, and ends
    {"op": "exited", "pid", "status"}            a process has ended; `status` as waitpid gives it

and hears, besides requests, {"op": "adopt", "pid"}: that process is a kernel, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from kernelagent_python.app import launch_stock, leave
from kernelagent_python.forking import (
    Channel,
    Marker,
    Request,
    begin_life,
    fork_aside,
    fork_child,
)
from kernelagent_python.preloading import refuse_what_cannot_be_forked, sentence
from kernelagent_python.streams import flush_before_exit, real_exit
from kernelagent_python.thread_limits import ThreadLimits

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def serve(descriptor: int, prepare: Callable[[], Any]) -> None:
    """Build everything, then fork on request until the server goes.

    `prepare` gives the application that each kernel is a copy of, without sockets; None where
    kernels are of stock classes. Returns where it cannot serve, and in a stock kernel that was shut
    down.
    """
    channel = Channel(descriptor)
    try:
        marker, limits = Marker(), ThreadLimits()
        # What is alive now stays alive: neither looked at nor moved in any kernel.
        gc.disable()
        app = prepare()
        refuse_what_cannot_be_forked("a preloaded module")
        gc.collect()
        gc.freeze()
        gc.enable()
    except Exception as error:
        channel.send({"op": "failed", "reason": sentence(error)})
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Kernels are not to end with us, and we are to end after them: by the channel's end.
    libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    channel.send(
        {
            "op": "ready",
            "kernel": "stock" if app is None else app.kind,
            "modules": len(sys.modules),
        }
    )
    first = _ForkServer(channel).serve()
    if app is None:
        begin_life(first, marker)
        _begin_fresh(first.content, marker, limits)
        _run_stock(first)
        return
    request: Request | None = first
    try:
        while request is not None:
            request = _live(app, request, marker, limits)
    except BaseException:
        # Written by hand: sys.stderr may lead nowhere by now.
        os.write(2, traceback.format_exc().encode())
        real_exit(1)
    leave(app)


class _ForkServer:
    """The loop of the fork server itself."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kernels: set[int] = set()
        self._ended, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> Request:
        """Returns in each child, with what it was made for."""
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        poll.register(self._channel.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._ended in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._ended, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                request = self._channel.receive()
                if request is None:
                    self._end()
                elif request.op == "adopt":
                    self._kernels.add(request.content["pid"])
                elif self._fork(request):
                    return request

    def _fork(self, request: Request) -> bool:
        pid = fork_child(self._channel)
        if pid is None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._ended, self._wake):
                os.close(descriptor)
            self._channel.close()
            _reseed()
            return True
        if pid > 0:
            self._kernels.add(pid)
        request.close()
        return False

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            if pid in self._kernels:
                self._kernels.discard(pid)
                # While the kernel is not reaped its id is its own, so this hits nobody else.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            self._channel.send({"op": "exited", "pid": pid, "status": status})

    def _end(self) -> None:
        """The server is gone: so is everything that it has asked for."""
        for pid in self._kernels:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)


def _live(app: Any, request: Request, marker: Marker, limits: ThreadLimits) -> Request | None:
    """One life of a forked process; in a process forked from it, the request for that one."""
    begin_life(request, marker)
    channel = Channel(request.descriptors["channel"])
    if request.op == "park":
        return _park(channel, request)
    content = request.content
    if content.get("env") is not None:
        _begin_fresh(content, marker, limits)
        app.begin_fresh(content)
    # What was put in place before the fork takes this process for a child of user code.
    flush_before_exit()
    app.connection_file = content["connection_file"]
    app.session.pid = os.getpid()
    app.session.session = os.urandom(16).hex()
    app.kernel.ident = content["marker"]
    app.attach(content["info"], request.listeners)
    app.channels.thread.watch(request.descriptors["lifeline"], _die)
    return _serve_kernel(app, channel, request)


def _serve_kernel(app: Any, channel: Channel, own: Request) -> Request | None:
    from kernelagent_python.branching import obstacle

    wanted: list[Request] = []

    def take() -> None:
        request = channel.receive()
        if request is None:
            app.channels.loop.remove_reader(channel.fileno())
            return
        wanted.append(request)
        stop_when_idle()

    def stop_when_idle() -> None:
        if wanted and app.kernel.idle:
            app.channels.loop.stop()

    app.channels.loop.add_reader(channel.fileno(), take)
    app.kernel.on_idle = stop_when_idle
    app.run()
    while wanted:
        request = wanted.pop(0)
        reason = None if request.content.get("force") else obstacle(app)
        if reason is not None:
            channel.refuse("BRANCH_REFUSED", reason)
        else:
            for stream in app.streams:
                stream.drain()
                stream.flush()
            if fork_aside(channel):
                app.abandon()
                channel.close()
                os.close(own.descriptors["lifeline"])
                return request
        request.close()
        if not wanted:
            app.run()
    return None


def _park(channel: Channel, own: Request) -> Request | None:
    """Keep still, as a checkpoint, until processes are asked for."""
    # Until now it was in the group of the process that it is a copy of, and would end with that.
    channel.send({"op": "begun"})
    while True:
        request = channel.receive()
        if request is None:
            os._exit(0)
        if fork_aside(channel):
            channel.close()
            os.close(own.descriptors["lifeline"])
            return request
        request.close()


def _die() -> None:
    # What the lifeline's own signal does not do where the system has no such signals.
    os.kill(os.getpid(), signal.SIGKILL)


def _run_stock(request: Request) -> None:
    """The life of a kernel of stock classes, which ends as the interpreter does."""
    listeners = request.listeners
    # The heartbeat's thread binds by itself.
    os.close(listeners.pop("hb"))
    launch_stock(["-f", request.content["connection_file"]], listeners)


def _begin_fresh(content: dict[str, Any], marker: Marker, limits: ThreadLimits) -> None:
    """Have what a kernel that was started by itself would have, and nothing of ours."""
    os.environ.clear()
    os.environ.update(content["env"])
    os.environ.pop("KERNELAGENT_STOCK_KERNEL", None)
    marker.set(content["marker"])
    os.chdir(content["cwd"])
    sys.argv[1:] = ["-f", content["connection_file"]]
    limits.restore(content["env"])


def _reseed() -> None:
    # `random` does so by itself.
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
