"""Drives a bash that lives on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelagent_host.host import Driver as BaseDriver
from kernelagent_host.host import Ended, Failure, HostFailed, Listener, MimeBundle, Run
from kernelagent_python.scope import ScopeError
from kernelagent_python.timer import Timer

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
from kernelagent_bash.output_filter import OutputFilter, Shown  # noqa: E402
from kernelagent_bash.shell import Shell  # noqa: E402
from kernelagent_bash.showing import Unshowable, mime_bundle  # noqa: E402
from kernelagent_bash.waiting import waits_for_line  # noqa: E402

sys.path.remove(_HERE)

_ANSWER = 10.0
# How often we look whether something waits for a line, while somebody could answer.
_LOOK = 0.03
# How long an interrupted shell may take to come back before it is called.
_CALL = 0.02
_MOST_CALLS = 20
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WORD = re.compile(r"[^\s;|&()<>'\"`=]*\Z")
_END_OF_FILE = b"\x04"
_INTERRUPTED = 128 + signal.SIGINT
_INCOMPLETE = ("unexpected end of file", "unexpected EOF", "here-document at line")


class Driver(BaseDriver):
    """Bash by files that it reads with `.`; its end of a run comes over a pipe of its own."""

    language_info = {  # noqa: RUF012
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
        self._filters: dict[str, OutputFilter] = {}
        self._initial: set[str] = set()
        self._count = 0
        self._cell: Path | None = None
        self._running = False
        self._asks = False
        self._asked = False
        self._interrupted = False
        # Whether the shell has taken the order, and whether an interrupt waits for that.
        self._begun = self._wanted = False
        self._calls = 0
        # Calls of the shell by number: those of one interrupt begin with the first.
        self._call = self._first_call = 0
        self._signalled: set[int] = set()
        self._for_shell = False
        self._note = ""

    def start(self) -> None:
        program = shutil.which("bash")
        if program is None:
            raise HostFailed("bash is not installed")
        shell = self._shell = Shell(program)
        self._timer = Timer()
        mark = f"\x1b_kernelagent;{shell.mark};".encode()
        path = f"{shell.folder}/Cell In[".encode()
        self._filters = {
            name: OutputFilter(mark, path, b"Cell In[") for name in ("stdout", "stderr")
        }
        self._initial = set(self._ask("complete", ["variable", ""]))

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
            if descriptor == output.descriptor:
                self._put_out(name, output.read())
                return
        if descriptor == shell.control.near:
            shell.skip()
        elif self._timer is not None and descriptor == self._timer.descriptor:
            self._timer.take()
            self._look()
        else:
            for report in shell.reports():
                self._take_report(report)

    def run(self, run: Run) -> None:
        if run.cwd is not None:
            _check_directory(run.cwd)
        shell = self._live
        self._count += 1
        self._running, self._interrupted, self._asked = True, False, False
        self._begun = self._wanted = False
        self._asks = run.allow_stdin
        self._cell = shell.folder / f"Cell In[{run.count}]"
        self._cell.write_bytes(run.code.encode("utf-8", "surrogateescape") + b"\n")
        source = shell.control.name if run.allow_stdin else os.devnull
        env, refused = _split(run.env)
        self._note = _refusal(refused)
        shell.order("run", [str(self._count), str(self._cell), source, run.cwd or "", *_flat(env)])
        if run.allow_stdin and self._timer is not None:
            self._timer.set(_LOOK)

    def interrupt(self) -> None:
        shell = self._live
        for report in shell.reports():
            self._take_report(report)
        if not self._running:
            return
        if not self._begun:
            # A shell that is interrupted while it reads its order may end.
            self._wanted = True
            return
        self._interrupted = True
        self._calls = 0
        self._signalled = set()
        self._first_call = self._call + 1
        # If a program has the terminal, it is for that one to decide what becomes of the cell.
        self._for_shell = not self._signal_foreground()
        if self._for_shell:
            os.kill(shell.pid, signal.SIGINT)
        if self._timer is not None:
            self._timer.set(_CALL)

    def gone(self, exit_code: int) -> Ended:
        self._running = False
        self._put_out_all()
        note = f"the shell ended with status {exit_code}: the next run has a fresh one"
        return Ended(None, exit_code, " ".join(filter(None, (self._note, note))), fresh=True)

    def configure(self, env: Mapping[str, str], unset: Sequence[str], cwd: str | None) -> None:
        if cwd is not None:
            _check_directory(cwd)
        accepted, _ = _split(env)
        gone = [name for name in unset if _NAME.fullmatch(name)]
        self._ask("configure", [cwd or "", str(len(gone)), *gone, *_flat(accepted)])

    def answer(self, line: str) -> None:
        self._asked = False
        self._live.control.type(line.encode() + b"\n")

    def deny(self) -> None:
        self._asked = False
        self._live.control.type(_END_OF_FILE)

    def complete(self, code: str, cursor: int) -> tuple[Sequence[str], int, int]:
        found = _WORD.search(code[:cursor])
        word = found[0] if found else ""
        start = cursor - len(word)
        if word.startswith("$"):
            matches = self._ask("complete", ["variable", word.lstrip("${")])
            return [f"${match}" for match in matches], start, cursor
        before = code[:start].rstrip(" ")
        is_command = not before or before[-1] in "\n;|&("
        kinds = ["command", "file"] if is_command and word else ["file", "variable"]
        found_all: list[str] = []
        for kind in kinds:
            found_all += self._ask("complete", [kind, word])
        return sorted(set(found_all)), start, cursor

    def inspect(self, code: str, cursor: int) -> MimeBundle | None:
        before = _WORD.search(code[:cursor])
        after = re.match(r"[\w.-]*", code[cursor:])
        word = (before[0].lstrip("${") if before else "") + (after[0] if after else "")
        lines = self._ask("inspect", [word]) if word else []
        return {"text/plain": "\n".join(lines)} if lines else None

    def is_complete(self, code: str) -> str:
        checked = subprocess.run(
            ["bash", "--norc", "-O", "extglob", "-n"],
            input=code.encode(),
            capture_output=True,
            check=False,
            timeout=_ANSWER,
        )
        said = checked.stderr.decode("utf-8", "replace")
        if any(phrase in said for phrase in _INCOMPLETE):
            return "incomplete"
        return "complete" if checked.returncode == 0 and not said else "invalid"

    def variables(self, limit: int) -> Mapping[str, Any]:
        found = [
            variable for variable in self._list_variables() if variable["name"] not in self._initial
        ]
        listed = found[: max(limit, 0)]
        return {"variables": listed, "total": len(found), "truncated": len(found) > len(listed)}

    def close(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.close()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _take_report(self, report: list[str]) -> None:
        if not self._running:
            return
        if report == ["begun", str(self._count)]:
            self._begun = True
            if self._wanted:
                self.interrupt()
            return
        if self._interrupted and report[0] == "idle" and int(report[1]) >= self._first_call:
            # It was interrupted before it had read what to do.
            report = ["ended", str(self._count), str(_INTERRUPTED)]
        if report[:2] != ["ended", str(self._count)]:
            return
        self._running = False
        if self._timer is not None:
            self._timer.set(0)
        self._put_out_all()
        if self._cell is not None:
            self._cell.unlink(missing_ok=True)
        status = int(report[2])
        failure = None
        if self._interrupted and status == _INTERRUPTED:
            failure = Failure("KeyboardInterrupt", "")
        self._listener.ended(Ended(failure, status, self._note))

    def _look(self) -> None:
        """What is to be looked after while a cell runs."""
        shell, timer = self._live, self._timer
        if not self._running or timer is None:
            return
        if self._interrupted:
            timer.set(_CALL)
            if self._for_shell or not self._signalled:
                # What the shell was about to start has not had the signal.
                self._signal_foreground()
            if 0 < self._calls <= _MOST_CALLS:
                # Its own sign of being back may be gone; a cell that runs on will not read this.
                self._call += 1
                (shell.folder / "number").write_text(f"{self._call}\n")
                shell.control.type(f" . {shell.folder}/call\n".encode())
            self._calls += 1
            return
        timer.set(_LOOK)
        if self._asked or shell.control.unread:
            return
        if waits_for_line(shell.pid, shell.control.name):
            self._asked = True
            self._put_out_all()
            self._listener.ask("", password=not shell.control.echoes)

    def _signal_foreground(self) -> bool:
        """Send SIGINT, once, to the group of programs that has the terminal; whether one has.

        By a signal and not by the key, which programs can disarm.
        """
        shell = self._live
        group = shell.control.foreground
        if group <= 0 or group == os.getpgid(shell.pid):
            return False
        if group not in self._signalled:
            # A child of the shell that has not become a program yet loses the signal: once more.
            if not _runs_same_program(group, shell.pid):
                self._signalled.add(group)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGINT)
        return True

    def _put_out_all(self) -> None:
        for name, output in self._live.outputs.items():
            self._put_out(name, output.read_all())
            rest = self._filters[name].rest()
            if rest:
                self._listener.stream(name, rest)

    def _put_out(self, name: str, data: bytes) -> None:
        for piece in self._filters[name].take(data):
            if isinstance(piece, Shown):
                self._show(piece.name)
            elif piece:
                self._listener.stream(name, piece)

    def _show(self, name: str) -> None:
        folder = self._live.folder / "shown"
        if not name.isalnum():
            return
        about = folder / f"{name}.about"
        try:
            kind, file = about.read_text(errors="replace").split("\0", 1)
            bundle = mime_bundle((folder / name).read_bytes(), Path(file).name, kind)
        except (OSError, ValueError, Unshowable) as error:
            self._listener.stream("stderr", f"display: {error}\n".encode())
        else:
            self._listener.display(bundle)
        finally:
            for path in (folder / name, about):
                path.unlink(missing_ok=True)

    def _list_variables(self) -> list[dict[str, Any]]:
        fields = (self._ask_raw("variables", [])).split(b"\0")
        texts = [field.decode("utf-8", "replace") for field in fields]
        listed = []
        for name, flags, declaration in zip(texts[::3], texts[1::3], texts[2::3], strict=False):
            _, assigned, value = declaration.partition("=")
            listed.append(
                {
                    "name": name,
                    "type": _type(flags),
                    "shape": None,
                    "size": None,
                    "preview": value[:120] if assigned else "",
                }
            )
        return listed

    def _ask(self, script: str, task: Sequence[str]) -> list[str]:
        return self._ask_raw(script, task).decode("utf-8", "replace").splitlines()

    def _ask_raw(self, script: str, task: Sequence[str]) -> bytes:
        """Have the waiting shell answer; raises HostFailed."""
        shell = self._live
        answer = shell.folder / "answer"
        answer.write_bytes(b"")
        shell.order(script, task)
        shell.wait_for(lambda report: report == ["answered"], _ANSWER, self.take)
        content: bytes = answer.read_bytes()
        return content


def _runs_same_program(pid: int, other: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink() == Path(f"/proc/{other}/exe").readlink()
    except OSError:
        return False


def _split(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What bash can have in its environment, and the names that it cannot."""
    accepted = {name: value for name, value in env.items() if _NAME.fullmatch(name)}
    return accepted, [name for name in env if name not in accepted]


def _refusal(names: list[str]) -> str:
    return f"bash takes no variables of these names: {', '.join(names)}" if names else ""


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


def _type(flags: str) -> str:
    for flag, name in (("A", "associative array"), ("a", "array"), ("i", "integer")):
        if flag in flags:
            return name
    return "reference" if "n" in flags else "string"
