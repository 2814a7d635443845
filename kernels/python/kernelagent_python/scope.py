"""Environment and directory: set for a session, or for one run and undone exactly afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any


class ScopeError(Exception):
    """The wished directory cannot be entered."""


def configure(env: Mapping[str, str], unset: list[str], cwd: str | None) -> None:
    """Change the session's own environment and directory for good; raises ScopeError."""
    if cwd is not None:
        _enter(cwd)
    os.environ.update(env)
    for name in unset:
        os.environ.pop(name, None)


class RunScope:
    """What one run changed, so that it can be put back.

    `leave` may be cut short by an interrupt; it can be called again and goes on where it was. The
    kernel calls it once more before the next request.
    """

    def __init__(self) -> None:
        self._environment: dict[str, str | None] = {}
        self._directory: str | None = None

    def enter(self, env: Mapping[str, str], cwd: str | None) -> None:
        """Apply `env` and `cwd`; raises ScopeError with nothing changed."""
        self.leave()
        if cwd is not None:
            before = _current_directory()
            _enter(cwd)
            self._directory = before
        for name, value in env.items():
            self._environment[name] = os.environ.get(name)
            os.environ[name] = value

    def leave(self) -> None:
        """Put back what was before, absence included."""
        if not self._environment and self._directory is None:
            return
        handler = _ignore_interrupts()
        try:
            for name, value in list(self._environment.items()):
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
                del self._environment[name]
            if self._directory is not None:
                # If it was removed meanwhile, there is nowhere to go back to.
                with contextlib.suppress(OSError):
                    os.chdir(self._directory)
                self._directory = None
        finally:
            if handler is not None:
                signal.signal(signal.SIGINT, handler)


def _ignore_interrupts() -> Any:
    try:
        return signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        # Not the main thread (a subshell): interrupts never arrive here.
        return None


def _current_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - the kernel's own plain strings
    except OSError:
        return None


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise ScopeError(f"{directory}: {error.strerror}") from None
