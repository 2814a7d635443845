"""The process of a host: started apart from the kernel, and ended with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence

import psutil

from kernelagent_host.host import HostFailed

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# A subshell has its parent's command line for ever.
_BEGINS = 0.05
_LOOKS = 0.002
# How long a killed process may take to end; one that waits for a device takes for ever.
_ENDS = 2.0
# Loaded before any fork: between a fork and its exec nothing may be.
_libc = ctypes.CDLL(None, use_errno=True)


def start_process(
    argv: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: Sequence[int] = (),
    terminal: int | None = None,
    adopts: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own; it is killed when this process ends.

    `terminal` becomes the terminal that controls it. What loses its parent among its descendants
    becomes its own child if it `adopts`, which it must reap, so that `end_process` finds daemons,
    too. Raises HostFailed.
    """
    parent = os.getpid()

    def settle() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        if adopts:
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=settle,  # noqa: PLW1509 - the kernel's other thread holds no lock it needs
        )
    except OSError as error:
        raise HostFailed(f"{argv[0]} cannot be started: {error.strerror}") from error


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill it and its descendants, those in sessions of their own too, and reap it.

    All have ended when it returns, but for one that the system does not end within 2 s.
    """
    if process.returncode is not None:
        return
    descendants = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with contextlib.ExitStack() as stack:
        ends = select.poll()
        running = 0
        for child in descendants:
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(child.pid)
                stack.callback(os.close, descriptor)
                ends.register(descriptor, select.POLLIN)
                running += 1
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in descendants:
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.wait()
        deadline = time.monotonic() + _ENDS
        while running and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in ends.poll(left * 1000):
                ends.unregister(descriptor)
                running -= 1


def interrupt_tree(process: psutil.Process) -> list[psutil.Process]:
    """Send SIGINT to it and its descendants, and return those that got it.

    They are stopped meanwhile: none can start another that is not among them.
    """
    deadline = time.monotonic() + _BEGINS
    reached = _stop_tree(process)
    # Until one executes its program, a handler of its parent's takes the signal.
    while time.monotonic() < deadline and not all(map(_has_begun, reached)):
        _continue(reached)
        time.sleep(_LOOKS)
        reached = _stop_tree(process)
    for one in reached:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signal.SIGINT)
    _continue(reached)
    return reached


def _has_begun(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        parent = process.parent()
        return parent is None or process.cmdline() != parent.cmdline()
    return True


def _stop_tree(process: psutil.Process) -> list[psutil.Process]:
    reached: list[psutil.Process] = []
    found = [process]
    while found:
        for one in found:
            with contextlib.suppress(psutil.Error):
                one.suspend()
        reached += found
        found = []
        with contextlib.suppress(psutil.Error):
            found = [one for one in process.children(recursive=True) if one not in reached]
    return reached


def _continue(reached: list[psutil.Process]) -> None:
    # From below: a shell that goes on must not see that what it waits for was stopped.
    for one in reversed(reached):
        with contextlib.suppress(psutil.Error):
            one.resume()
