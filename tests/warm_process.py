"""The process from which a program starts warm: it has imported it, and forks for each command.

`python -m tests.warm_process DESCRIPTOR MODULE:FUNCTION MODULE...`: the socket with requests, what
a command calls, and what else it imports sooner or later. Each request is JSON, with four
descriptors: stdin, stdout and stderr of the command, and a socket, which first gets a descriptor
of its process, and then its exit code. The process ends with the socket.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

# Variables that the interpreter and typer read when they start.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "TYPER_", "_TYPER_")
_LONGEST_REQUEST = 2**17


def main() -> None:
    """Become one command after the other, each in a process of its own."""
    _, descriptor, entry, *modules = sys.argv
    module, _, function = entry.partition(":")
    for name in (module, *modules):
        importlib.import_module(name)
    # What the collector does not touch stays shared.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(descriptor)) as requests:
        request, descriptors = _next_command(requests)
    _become(request, descriptors)
    try:
        sys.exit(getattr(sys.modules[module], function)())
    except SystemExit as ending:
        _leave(ending.code)
        raise


def _next_command(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request, in the process that is to become the command; in the first one, never."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 4)
        if not data:
            sys.exit()
        if os.fork() == 0:
            with socket.socket(fileno=descriptors.pop()) as reply:
                if command := os.fork():
                    _report(command, reply, descriptors)
            return json.loads(data), descriptors
        for descriptor in descriptors:
            os.close(descriptor)
        _reap()


def _report(command: int, reply: socket.socket, descriptors: list[int]) -> NoReturn:
    """Send a descriptor of the process of a command, and how it ends."""
    try:
        for descriptor in descriptors:
            os.close(descriptor)
        socket.send_fds(reply, [b"1"], [os.pidfd_open(command)])
        _, status = os.waitpid(command, 0)
        reply.send(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _reap() -> None:
    """Let go of those that have reported."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def _become(request: Mapping[str, Any], descriptors: list[int]) -> None:
    """Be as the program is once it has been imported, or start it."""
    environment: dict[str, str] = request["environment"]
    if request["new_session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    # Whoever started the tests may have had them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = _first_environment()
    if request["fresh"] or _read_at_start(environment) != _read_at_start(before):
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        command = [*request["program"], *request["arguments"]]
        os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted
    # The interpreter may have added a locale.
    added = {name: value for name, value in os.environ.items() if name not in before}
    os.environ.clear()
    os.environ.update({**environment, **added})
    tempfile.tempdir = None
    sys.argv = [request["program"][-1], *request["arguments"]]
    sys.path[0] = str(Path.cwd())
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdin = os.fdopen(0, encoding=encoding, errors=errors, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, errors=errors, closefd=False)
    # By lines, as the interpreter has it.
    sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)


def _first_environment() -> dict[str, str]:
    """The environment with which this interpreter was started."""
    lines = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _leave(code: object) -> None:
    """End as the interpreter does, but without clearing all its modules, which takes longer.

    Returns if there is more to be done.
    """
    if isinstance(code, int | None) and threading.active_count() == 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    main()
