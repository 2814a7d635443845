"""Drives a bash that lives on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelagent_host.host import Driver as BaseDriver
from kernelagent_host.host import Ended, Failure, HostFailed, Listener, MimeBundle, Run
from kernelagent_python.scope import ScopeError
from kernelagent_python.timer import Timer

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
from kernelagent_bash import questions  # noqa: E402
from kernelagent_bash.asking import Asker  # noqa: E402
from kernelagent_bash.interrupting import Interrupt  # noqa: E402
from kernelagent_bash.printing import Printer  # noqa: E402
from kernelagent_bash.shell import Shell, rewrite  # noqa: E402
from kernelagent_bash.waiting import is_stopped  # noqa: E402

sys.path.remove(_HERE)

_ANSWER = 10.0
# How often we look after a cell: while somebody could answer it, while something is about to
# happen, and else, where each pause is twice the last one.
_LOOK = 0.03
_LOOK_SOON = 0.003
_FIRST_LOOK, _LAST_LOOK = 0.1, 1.0
# How many times as long as a look the pause after it is at least: there may be many processes.
_REST = 10
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_INTERRUPTED = 128 + signal.SIGINT
_SYNTAX_ERROR = 2
_FRESH = "the next run has a fresh one"


class Driver(BaseDriver):
    """Bash by files that it reads with `.`; the end of a run comes over a pipe of its own."""

    language_info: Mapping[str, Any] = {
        "name": "bash",
        "version": "5",
        "mimetype": "text/x-sh",
        "file_extension": ".sh",
        "codemirror_mode": "shell",
        "pygments_lexer": "bash",
    }
    banner = "Bash"

    def __init__(self, listener: Listener, options: Sequence[str]) -> None:
        del options
        self._listener = listener
        self._shell: Shell | None = None
        self._timer: Timer | None = None
        self._asker: Asker
        self._printer: Printer
        self._initial: set[str] = set()
        self._count = 0
        self._cell: Path | None = None
        # What is said at the end of a cell whose rest bash was not given.
        self._complaint = ""
        self._task: list[str] = []
        self._running = self._begun = self._rescued = False
        self._asks = False
        self._interrupt: Interrupt | None = None
        self._pause = _FIRST_LOOK
        # In how many looks on end the shell has waited for an order, though its cell has not ended.
        self._idle = 0
        self._notes: list[str] = []

    def start(self) -> None:
        program = shutil.which("bash") or shutil.which(
            "bash", path=str(Path(sys.executable).parent)
        )
        if program is None:
            raise HostFailed("bash is not installed")
        shell = self._shell = Shell(program)
        self._timer = Timer()
        self._asker = Asker(self._listener, shell)
        self._printer = Printer(self._listener, shell)
        self.language_info = {**self.language_info, "version": shell.version}
        self.banner = f"Bash {shell.version}"
        self._initial = set(questions.names(self._ask))

    @property
    def pid(self) -> int:
        pid: int = self._live.pid
        return pid

    @property
    def descriptors(self) -> Sequence[int]:
        if self._shell is None or self._timer is None:
            return []
        return [*self._shell.descriptors, self._timer.descriptor]

    @property
    def _live(self) -> Shell:
        assert self._shell is not None  # noqa: S101 - `start` came first
        return self._shell

    def take(self, descriptor: int) -> None:
        shell = self._live
        for name, output in shell.outputs.items():
            if descriptor == output.near:
                self._printer.take(name)
                return
        if descriptor in (shell.control.near, shell.input.near, shell.own.near):
            shell.skip(descriptor)
        elif self._timer is not None and descriptor == self._timer.descriptor:
            self._timer.take()
            self._look()
        else:
            self._take_reports()

    def run(self, run: Run) -> None:
        if run.cwd is not None:
            _check_directory(run.cwd)
        shell = self._live
        env, refused = _split(run.env)
        self._count += 1
        self._running, self._begun, self._rescued = True, False, False
        self._interrupt, self._idle, self._pause = None, 0, _FIRST_LOOK
        self._asks = self._printer.holds = run.allow_stdin
        self._asker.forget()
        self._notes = [_refusal("bash takes no variables of these names", refused)]
        shell.said()
        last, self._cell = self._cell, shell.folder / f"Cell In[{run.count}]"
        source = shell.input.name if run.allow_stdin else os.devnull
        self._task = [str(self._count), str(self._cell), source, run.cwd or "", *_flat(env)]
        try:
            shell.ensure_files()
            if last is not None:
                with contextlib.suppress(FileNotFoundError):
                    last.rename(self._cell)
            code, self._complaint = questions.cut_unclosed(
                shell.program, f"{run.code}\n", self._cell.name
            )
            rewrite(self._cell, code.encode("utf-8", "surrogateescape") + b"\n")
            shell.order("run", self._task)
        except OSError as error:
            self._running = False
            reason = f"the cell cannot be handed to bash: {error.strerror}"
            self._listener.ended(Ended(Failure("OSError", reason), 1))
            return
        self._look_again()

    def interrupt(self) -> None:
        self._take_reports()
        if self._running:
            self._asker.forget()
            self._interrupt = Interrupt(self._live)
            if self._begun:
                self._interrupt.send()
            self._look_again()

    def gone(self, exit_code: int) -> Ended:
        if self._running:
            self._take_all()
            said = self._live.last_words()
            if said:
                self._listener.stream("stdout", said)
        self._running = False
        self._notes.append(f"the shell ended with status {exit_code}: {_FRESH}")
        return Ended(None, exit_code, self._note, fresh=True)

    def configure(self, env: Mapping[str, str], unset: Sequence[str], cwd: str | None) -> None:
        if cwd is not None:
            _check_directory(cwd)
        accepted, _ = _split(env)
        gone = [name for name in unset if _NAME.fullmatch(name)]
        self._ask("configure", [cwd or "", str(len(gone)), *gone, *_flat(accepted)])

    def answer(self, line: str) -> None:
        self._asker.answer(line)
        self._look_again()

    def deny(self) -> None:
        self._printer.show_prompt()
        self._asker.deny()

    def complete(self, code: str, cursor: int) -> tuple[Sequence[str], int, int]:
        matches, start, end = questions.complete(self._ask, code, cursor)
        return matches, start, end

    def inspect(self, code: str, cursor: int) -> MimeBundle | None:
        found: MimeBundle | None = questions.inspect(self._ask, code, cursor)
        return found

    def is_complete(self, code: str) -> str:
        status: str = questions.is_complete(self._live.program, code)
        return status

    def variables(self, limit: int) -> Mapping[str, Any]:
        listed: Mapping[str, Any] = questions.variables(self._ask, self._initial, limit)
        return listed

    def close(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.close()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    @property
    def _note(self) -> str:
        return " ".join(filter(None, self._notes))

    # Reports.

    def _take_reports(self) -> None:
        for kind, *words in self._live.reports():
            if not self._running or words[:1] != [str(self._count)]:
                continue
            if kind == "begun":
                self._begun = True
                self._look_again()
            elif kind == "ended":
                self._notes.append(_refusal("these variables are readonly", words[3:]))
                # Given up in the middle: whatever the status is then, that was the interrupt.
                given_up = self._interrupt is not None and words[2] == "0"
                self._end(_INTERRUPTED if given_up else int(words[1]))

    def _end(self, status: int) -> None:
        self._take_all()
        self._running = False
        if self._timer is not None:
            self._timer.set(0)
        failure = None
        if self._interrupt is not None and status == _INTERRUPTED:
            failure = Failure("KeyboardInterrupt", "")
        elif self._complaint:
            self._listener.stream("stderr", self._complaint.encode("utf-8", "replace"))
            status = _SYNTAX_ERROR
        self._listener.ended(Ended(failure, status, self._note))

    def _take_all(self) -> None:
        # What comes later has nobody to look whether it is a prompt.
        self._printer.holds = False
        self._printer.take_all()
        said = self._live.said()
        if said.strip():
            self._listener.stream("stderr", said)

    # What is to be looked after while a cell runs.

    def _look(self) -> None:
        shell = self._live
        self._take_reports()
        if not self._running:
            return
        began = time.monotonic()
        if is_stopped(shell.pid):
            # Nobody else could have it go on.
            os.kill(shell.pid, signal.SIGCONT)
        if shell.takes_orders:
            self._idle += 1
            if self._idle > 1:
                self._settle()
        else:
            self._idle = 0
            interrupt = self._interrupt
            if interrupt is not None and interrupt.pending:
                # Not while the shell is busy with our own files: bash does not bear that.
                if self._begun or interrupt.is_old:
                    interrupt.send_again()
            elif interrupt is not None and shell.has_copy:
                self._give_up("an interrupt has left a copy of the shell in its place")
            else:
                self._asker.look(self._printer.take_prompt if self._asks else None)
        if self._running:
            self._printer.release(but_fresh=True)
            self._look_again(_REST * (time.monotonic() - began))

    def _look_again(self, least: float = 0) -> None:
        if self._timer is None or not self._running:
            return
        pending = self._interrupt is not None and self._interrupt.pending
        if pending or self._idle or self._asker.typing:
            self._timer.set(max(_LOOK_SOON, least))
        elif self._asks:
            self._timer.set(max(_LOOK, least))
        else:
            self._timer.set(max(self._pause, least))
            self._pause = min(2 * self._pause, _LAST_LOOK)

    def _settle(self) -> None:
        """The shell waits for an order and has not said how the cell has ended."""
        shell = self._live
        self._idle = 0
        if self._rescued:
            self._give_up("the shell no longer answers")
        else:
            self._rescued = True
            if self._interrupt is None:
                self._notes.append(
                    "the shell was put in order: its files, builtins, and functions of such names"
                )
            try:
                shell.rescue(self._count if self._begun else None)
                if not self._begun:
                    shell.order("run", self._task)
            except OSError as error:
                self._give_up(f"the shell's own files cannot be written: {error.strerror}")

    def _give_up(self, reason: str) -> None:
        self._take_all()
        self._running = False
        self._notes = [f"{reason}: {_FRESH}"]
        self._listener.ended(Ended(Failure("HostFailed", reason), 1, self._note, fresh=True))

    def _ask(self, script: str, task: Sequence[str]) -> bytes:
        """Have the waiting shell answer; raises HostFailed."""
        shell = self._live
        answer = shell.folder / "answer"
        try:
            shell.ensure_files()
            answer.write_bytes(b"")
            shell.order(script, task)
            shell.wait_for(lambda report: report == ["answered"], _ANSWER, self.take)
            content: bytes = answer.read_bytes()
        except OSError as error:
            raise HostFailed(f"the shell cannot be asked: {error.strerror}") from error
        return content


def _split(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What bash can have in its environment, and the names that it cannot."""
    accepted = {name: value for name, value in env.items() if _NAME.fullmatch(name)}
    return accepted, [name for name in env if name not in accepted]


def _refusal(reason: str, names: Sequence[str]) -> str:
    return f"{reason}: {', '.join(names)}" if names else ""


def _flat(env: Mapping[str, str]) -> list[str]:
    return [part for pair in env.items() for part in pair]


def _check_directory(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ScopeError(f"{path}: {error.strerror}") from None
    os.close(descriptor)
    if not os.access(path, os.X_OK):
        raise ScopeError(f"{path}: Permission denied")
