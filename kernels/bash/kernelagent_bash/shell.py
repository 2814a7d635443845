"""One bash process: its terminals, its private files, and what it reports."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kernelagent_bash.terminal import Output, Terminal
from kernelagent_host.host import HostFailed
from kernelagent_host.private import make_private_directory
from kernelagent_host.process import end_process, start_process

SCRIPTS = Path(__file__).resolve().parent.parent / "shell"
LARGEST_DISPLAY = 32 * 2**20

_START = 30.0
_READ = 4096
# What the programs of a shell that nobody looks at should know.
_ENVIRONMENT = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat"}


class Shell:
    """A running bash; `close` in any case. Raises HostFailed if it does not start."""

    def __init__(self, program: str) -> None:
        self.folder = make_private_directory("ka-bash")
        self.mark = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines = b""
        self._reports: list[list[str]] = []
        self.control = Terminal()
        sentinel = f"\x1b_{self.mark};".encode()
        self.outputs = {"stdout": Output(sentinel), "stderr": Output(sentinel)}
        self._report_pipe = -1
        try:
            self._start(program)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101 - it has started
        return self._process.pid

    @property
    def descriptors(self) -> Sequence[int]:
        """What is to be polled: outputs first, then reports."""
        outputs = [output.descriptor for output in self.outputs.values()]
        return [*outputs, self.control.near, self._report_pipe]

    def order(self, script: str, task: Sequence[str]) -> None:
        """Have the shell, which waits, carry out a script of ours with a task."""
        data = b"".join(item.encode("utf-8", "surrogateescape") + b"\0" for item in task)
        (self.folder / "task").write_bytes(data)
        self.control.type(f" . {self.folder}/{script}\n".encode())

    def reports(self) -> list[list[str]]:
        """What it has reported since the last call: lists of words."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._report_pipe, _READ):
                *lines, self._lines = (self._lines + data).split(b"\n")
                self._reports += [line.decode().split() for line in lines]
        reports, self._reports = self._reports, []
        return reports

    def wait_for(
        self, done: Callable[[list[str]], bool], seconds: float, take: Callable[[int], None]
    ) -> None:
        """Wait for a report, handing what else comes to `take`; raises HostFailed."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        for descriptor in self.descriptors:
            poll.register(descriptor, select.POLLIN)
        while True:
            if any(map(done, self.reports())):
                return
            left = deadline - time.monotonic()
            if left <= 0 or (self._process is not None and self._process.poll() is not None):
                raise HostFailed("the shell does not answer" if left <= 0 else "the shell ended")
            for descriptor, _ in poll.poll(min(left, 0.1) * 1000):
                if descriptor != self._report_pipe:
                    take(descriptor)

    def close(self) -> None:
        """End it and what it has started; leave nothing."""
        if self._process is not None:
            end_process(self._process)
        self.control.close()
        for output in self.outputs.values():
            output.close()
        if self._report_pipe >= 0:
            os.close(self._report_pipe)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, program: str) -> None:
        values = {
            "@DIR@": str(self.folder),
            "@OUT@": self.outputs["stdout"].name,
            "@ERR@": self.outputs["stderr"].name,
            "@MARK@": self.mark,
            "@LARGEST@": str(LARGEST_DISPLAY),
        }
        for script in SCRIPTS.iterdir():
            text = script.read_text()
            for name, value in values.items():
                text = text.replace(name, value)
            (self.folder / script.name).write_text(text)
        (self.folder / "display").chmod(stat.S_IRWXU)
        (self.folder / "shown").mkdir()
        os.mkfifo(self.folder / "reports")
        self._report_pipe = os.open(
            self.folder / "reports", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        )
        rc = str(self.folder / "rc")
        with _environment():
            self._process = start_process(
                [program, "--noprofile", "--noediting", "--rcfile", rc, "-i"],
                stdin=self.control.far,
                stdout=self.control.far,
                stderr=self.control.far,
                terminal=0,
            )
        self.wait_for(lambda report: report[0] == "ended", _START, lambda _: self.skip())

    def skip(self) -> None:
        """Nobody looks at what is echoed."""
        while self.control.read():
            """More of it."""


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The environment of the kernel, with what a shell needs where the user has set nothing."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added, TERM="dumb")
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
