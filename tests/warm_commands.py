"""The process in which commands start warm: it has imported what they need, and forks for each.

`python -m tests.warm_commands DESCRIPTOR`. Each request on that socket is JSON, with four
descriptors: stdin, stdout and stderr of the command, and a socket, which first gets a descriptor
of the process, and then its exit code. The process ends with the socket.
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

# What commands import when they need it. Not `typer.rich_utils`, which reads the environment as it
# is imported.
_MODULES = """
kernelagent.auth kernelagent.client kernelagent.settings
kernelagent.cli kernelagent.cli.follower kernelagent.cli.printer kernelagent.cli.prompts
kernelagent.cli.selection kernelagent.cli.tables kernelagent.cli.terminal
kernelagent.jupyter.languages kernelagent.notebooks.replay
anyio._backends._asyncio httpcore._async.http2 jupyter_client.kernelspec
rich.console rich.live rich.markdown rich.progress rich.table
""".split()
# Variables that the interpreter and typer read when they start.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "TYPER_", "_TYPER_")
_LONGEST_REQUEST = 2**17


def main() -> None:
    """Become one command after the other, each in a process of its own."""
    for module in _MODULES:
        importlib.import_module(module)
    # What the collector does not touch stays shared.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        request, descriptors = _next_command(requests)
    _become(request, descriptors)
    try:
        importlib.import_module("kernelagent.cli").main()
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
    """Be as `python -m kernelagent` is once it has been imported, or start that."""
    environment: dict[str, str] = request["environment"]
    if request["new_session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    # Whoever started the tests may have had them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["fresh"] or _read_at_start(environment) != _read_at_start(os.environ):
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        command = [sys.executable, "-m", "kernelagent", *request["arguments"]]
        os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is wanted
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.argv = [str(importlib.import_module("kernelagent").__file__), *request["arguments"]]
    sys.path[0] = str(Path.cwd())
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdin = os.fdopen(0, encoding=encoding, errors=errors, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, errors=errors, closefd=False)
    # By lines, as the interpreter has it.
    sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)


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
