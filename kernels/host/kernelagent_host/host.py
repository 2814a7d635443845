"""What a host kernel needs of a language: a driver, which speaks to the process that runs code.

A driver is a class in the language's own folder (`kernels/LANGUAGE/driver.py`, by the name
`Driver`). Everything happens in the kernel's main thread: the kernel polls `descriptors`, calls
`take` for those that can be read, and hears of what came through its `Listener`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MimeBundle = dict[str, Any]


class HostFailed(Exception):
    """The host could not be started or has broken its protocol; the reason is for people."""


@dataclass(frozen=True, slots=True)
class Run:
    """Code to run. `env` and `cwd` hold for this run and are undone exactly afterwards."""

    code: str
    count: int
    silent: bool = False
    allow_stdin: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Code that raised: as in a Jupyter error message."""

    name: str
    value: str
    traceback: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. Without a failure, `exit_code` other than 0 counts as one.

    `note` tells the caller something about this run; with `fresh` the state is lost, and the next
    run has a fresh host.
    """

    failure: Failure | None = None
    exit_code: int = 0
    note: str = ""
    fresh: bool = False


class Listener(Protocol):
    """The kernel, as its driver sees it. What is sent belongs to the run, or to the last one."""

    def stream(self, name: str, data: bytes) -> None:
        """Output as it came; `name` is stdout or stderr. It may be cut anywhere."""

    def display(
        self,
        data: MimeBundle,
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Rich output, by MIME type: text as str, JSON as objects, images in base64."""

    def result(self, data: MimeBundle, metadata: dict[str, Any] | None = None) -> None:
        """The value of the code, at most one."""

    def clear(self, *, wait: bool = False) -> None:
        """Take back what the run has shown so far."""

    def ask(self, prompt: str, *, password: bool = False) -> None:
        """The code waits for a line of input: `Driver.answer` or `Driver.deny` follows."""

    def ended(self, ended: Ended) -> None:
        """The run is over and all its output was sent."""


class Driver(abc.ABC):
    """Drives one host process of a language; `start` first, `close` in any case.

    The kernel makes a new driver when a host has ended.
    """

    # For kernel_info: name, version, mimetype, file_extension, as in the Jupyter protocol.
    language_info: Mapping[str, Any]
    banner: str

    @abc.abstractmethod
    def __init__(self, listener: Listener, options: Sequence[str]) -> None:
        """`options` are what the kernelspec gives after the driver's path."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start the host in this process's environment and directory, ready to run.

        It has a session (setsid) of its own, ends when this process ends however that happens, and
        inherits none of its descriptors. Raises HostFailed.
        """

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """The host's process id."""

    @property
    @abc.abstractmethod
    def descriptors(self) -> Sequence[int]:
        """What is to be polled for reading now, between runs too."""

    @abc.abstractmethod
    def take(self, descriptor: int) -> None:
        """Read what `descriptor` has, without blocking, and tell the listener; ignore its end."""

    @abc.abstractmethod
    def run(self, run: Run) -> None:
        """Begin a run; `Listener.ended` ends it, perhaps before this returns.

        Raises ScopeError (kernelagent_python.scope) if the directory cannot be entered.
        """

    @abc.abstractmethod
    def interrupt(self) -> None:
        """Stop the code that runs, as Ctrl-C would, and keep the state; `ended` follows.

        A failure named KeyboardInterrupt (with exit code 130) tells that it was interrupted.
        """

    @abc.abstractmethod
    def gone(self, exit_code: int) -> Ended:
        """The host has ended by itself with `exit_code`, all it wrote was taken: what that means.

        Called during a run and between two. A host killed by a signal takes the kernel along, which
        is not asked of the driver.
        """

    @abc.abstractmethod
    def configure(self, env: Mapping[str, str], unset: Sequence[str], cwd: str | None) -> None:
        """Change environment and directory for good, between runs; raises ScopeError.

        Returns when that is done.
        """

    def answer(self, line: str) -> None:
        """Give the code the line (without its end) that it asked for."""
        raise NotImplementedError

    def deny(self) -> None:
        """Nobody can answer what was asked for: the code gets an end of file or an error."""
        raise NotImplementedError

    def complete(self, code: str, cursor: int) -> tuple[Sequence[str], int, int]:  # noqa: ARG002
        """Matches for the word at `cursor` (in code points), and where it starts and ends."""
        return [], cursor, cursor

    def inspect(self, code: str, cursor: int) -> MimeBundle | None:  # noqa: ARG002
        """What is known of the name at `cursor`."""
        return None

    def is_complete(self, code: str) -> str:  # noqa: ARG002
        """complete, incomplete, invalid or unknown."""
        return "unknown"

    def variables(self, limit: int) -> Mapping[str, Any]:  # noqa: ARG002
        """The session's variables, in the shape of `kernelagent_python.variables`:

        `{"variables": [{"name", "type", "shape", "size", "preview"}], "total", "truncated"}`.
        """
        return {"variables": [], "total": 0, "truncated": False}

    @abc.abstractmethod
    def close(self) -> None:
        """End the host and what it has started, and close every descriptor; may come twice."""


DriverClass = Callable[[Listener, Sequence[str]], Driver]
