"""One bash process: its terminals, its private files, and what it reports."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kernelagent_bash.guard import Guard
from kernelagent_bash.output_filter import overlap
from kernelagent_bash.terminal import Terminal
from kernelagent_bash.waiting import family, takes_orders
from kernelagent_host.host import HostFailed
from kernelagent_host.private import make_private_directory
from kernelagent_host.process import end_process, start_process

SCRIPTS = Path(__file__).resolve().parent.parent / "shell"
LARGEST_DISPLAY = 32 * 2**20

_START = 30.0
_READ = 4096
# What the programs of a shell that nobody looks at should know.
_ENVIRONMENT = {"PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat"}
_KEPT = 16 * 1024
_MOST_ECHOES = 8
_ON_ITS_WAY = 2.0


class Shell:
    """A running bash; `close` in any case. Raises HostFailed if it does not start.

    It takes orders from `control`, which also is /dev/tty for its programs, and prints its own
    affairs to `own`. Cells read from `input`, or from nowhere, and print to `outputs`.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.version = ""
        self.folder = make_private_directory("ka-bash")
        self.mark = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._lines = b""
        self._echoes: list[bytes] = []
        self._typed_at = 0.0
        self._said = b""
        self._words = b""
        mark = f"\x1b_{self.mark};".encode()
        self.control = Terminal(mark, takes_lines=True)
        self.input = Terminal(mark, takes_lines=True)
        self.own = Terminal(mark, takes_lines=False)
        self.outputs = {name: Terminal(mark, takes_lines=False) for name in ("stdout", "stderr")}
        self._report_pipe = -1
        try:
            self._start()
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
        outputs = [output.near for output in self.outputs.values()]
        return [
            *outputs,
            *(t.near for t in (self.control, self.input, self.own)),
            self._report_pipe,
        ]

    @property
    def takes_orders(self) -> bool:
        """Whether it waits for one, and none is on its way."""
        self._hear()
        # What was typed reaches the terminal a moment later: it shows it then.
        on_its_way = self._said.count(b"\n") < len(self._echoes)
        if on_its_way and time.monotonic() < self._typed_at + _ON_ITS_WAY:
            return False
        return not self.control.unread and takes_orders(self.pid, self.control.name, self.own.name)

    @property
    def has_copy(self) -> bool:
        """Whether a child waits for orders in its place.

        One that was interrupted before it became itself takes itself for the shell. `settle` ends
        it, unless the cell has removed what bash runs before a prompt.
        """
        control, own = self.control.name, self.own.name
        others = (pid for pid in family(self.pid) if pid != self.pid)
        return any(takes_orders(pid, control, own) for pid in others)

    def ensure_files(self) -> None:
        """Write what somebody has removed; raises OSError."""
        if not ((self.folder / "run").exists() and (self.folder / "reports").exists()):
            self._write_files()

    def order(self, script: str, task: Sequence[str]) -> None:
        """Have the shell, which waits, carry out a script of ours with a task.

        Raises OSError if the shell's files cannot be written.
        """
        data = b"".join(item.encode("utf-8", "surrogateescape") + b"\0" for item in task)
        rewrite(self.folder / "task", data)
        for terminal in (self.control, self.input, *self.outputs.values()):
            terminal.reset()
        self.input.forget()
        while self.own.read():
            """What the shell has printed before is of no interest."""
        self._words = b""
        self._type(f' \\builtin . "{self.folder}/{script}"\n'.encode())

    def rescue(self, number: int | None) -> None:
        """Put back what the shell's host needs: files, builtins, and the names of builtins.

        With a number, that cell is over, and is to be reported. Raises OSError.
        """
        self._write_files()
        line = (SCRIPTS / "rescue").read_text().strip()
        if number is not None:
            line += (
                f" ; [[ -n ${{__ka_done-}} ]] || __ka_last=$__ka_status; __ka_id={number}; "
                f'\\builtin . "{self.folder}/report"'
            )
        self.control.reset()
        self._type(f" {line}\n".encode())

    def reports(self) -> list[list[str]]:
        """What it has reported since the last call: lists of words."""
        reports = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._report_pipe, _READ):
                *lines, self._lines = (self._lines + data).split(b"\n")
                reports += [line.decode("utf-8", "replace").split() for line in lines]
        return [report for report in reports if report]

    def expect_echo(self, line: bytes) -> None:
        """`said` leaves out what its own terminal shows of a typed line."""
        self._echoes = [*self._echoes[-_MOST_ECHOES:], line]

    def skip(self, descriptor: int) -> None:
        """Take what has come of what nobody looks at, and keep the end of it."""
        if descriptor == self.input.near:
            self.input.read()
        elif descriptor == self.own.near:
            self._words = (self._words + self.own.read())[-_KEPT:]
        else:
            self._hear()

    def said(self) -> bytes:
        """What programs have printed to /dev/tty since this was last asked."""
        self._hear()
        said, self._said = self._said, b""
        for echo in list(self._echoes):
            before, found, after = said.partition(echo)
            if not found:
                break
            said = before + after
            self._echoes.remove(echo)
        if self._echoes:
            # The beginning of what is still to come.
            kept = overlap(said, self._echoes[0])
            self._said = said[len(said) - kept :]
            said = said[: len(said) - kept]
        return said

    def last_words(self) -> bytes:
        """What the shell has printed when it had let go of the cell's streams: in an EXIT trap."""
        said = self._words + b"".join(self.own.read_all())
        ours = (b"__ka_", bytes(self.folder))
        lines = said.splitlines(keepends=True)
        return b"".join(line for line in lines if not any(word in line for word in ours))

    def _hear(self) -> None:
        while data := self.control.read():
            self._said = (self._said + data)[-_KEPT:]

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
            if left <= 0:
                raise HostFailed("the shell does not answer")
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise HostFailed("the shell has ended")
            for descriptor, _ in poll.poll(min(left, 0.1) * 1000):
                if descriptor != self._report_pipe:
                    take(descriptor)

    def close(self) -> None:
        """End it and what it has started; leave nothing."""
        if self._process is not None:
            session = self._process.pid if self._process.returncode is None else 0
            if session:
                _kill_session(session)
            end_process(self._process)
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        for terminal in (self.control, self.input, self.own, *self.outputs.values()):
            terminal.close()
        if self._report_pipe >= 0:
            os.close(self._report_pipe)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _type(self, line: bytes) -> None:
        self.expect_echo(line)
        self._typed_at = time.monotonic()
        self.control.type(line)

    def _start(self) -> None:
        self._write_files()
        rc = str(self.folder / "rc")

        def note(report: list[str]) -> bool:
            self.version = report[-1]
            return report[0] == "ready"

        with _environment():
            self._process = start_process(
                [self.program, "--noprofile", "--noediting", "--rcfile", rc, "-i"],
                stdin=self.control.far,
                # No terminal, or bash would take it for the one that controls it.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                terminal=0,
                adopts=True,
            )
        try:
            self._guard = Guard(self._process.pid)
        except OSError as error:
            raise HostFailed(f"/bin/sh cannot be started: {error.strerror}") from error
        self.wait_for(note, _START, self.skip)

    def _write_files(self) -> None:
        """Its scripts, and the pipe by which it reports: also when somebody has removed them."""
        values = {
            "@DIR@": str(self.folder),
            "@OUT@": self.outputs["stdout"].name,
            "@ERR@": self.outputs["stderr"].name,
            "@CONTROL@": self.control.name,
            "@OWN@": self.own.name,
            "@MARK@": self.mark,
            "@LARGEST@": str(LARGEST_DISPLAY),
        }
        self.folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        for script in SCRIPTS.iterdir():
            text = script.read_text()
            for name, value in values.items():
                text = text.replace(name, value)
            (self.folder / script.name).write_text(text)
        (self.folder / "display").chmod(stat.S_IRWXU)
        (self.folder / "shown").mkdir(exist_ok=True)
        pipe = self.folder / "reports"
        if self._report_pipe < 0 or not pipe.is_fifo():
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
            opened = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            if self._report_pipe >= 0:
                os.close(self._report_pipe)
            self._report_pipe = opened


def rewrite(path: Path, data: bytes) -> None:
    """Have the file hold `data`; raises OSError.

    In place: to make a file anew, or to empty it first, takes most of the time of a small cell.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _kill_session(leader: int) -> None:
    """Kill what belongs to the session; of a leader that has ended too, if nobody reaped it."""
    for entry in Path("/proc").iterdir():
        pid = entry.name
        if not pid.isdigit() or int(pid) == leader:
            continue
        with contextlib.suppress(OSError, IndexError):
            if (entry / "stat").read_bytes().rpartition(b")")[2].split()[3] == b"%d" % leader:
                os.kill(int(pid), signal.SIGKILL)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The environment of the kernel, with what a shell needs where the user has set nothing."""
    terminal = os.environ.get("TERM")
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added, TERM="dumb")
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        os.environ.pop("TERM", None)
        if terminal is not None:
            os.environ["TERM"] = terminal
