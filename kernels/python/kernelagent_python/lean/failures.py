"""A run that fails says so twice, whatever happens meanwhile: by an output and by its reply."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from ipykernel.jsonutil import json_clean

from kernelagent_python.lean.interrupts import Interrupts
from kernelagent_python.lean.streams import flush_all

Message = dict[str, Any]
T = TypeVar("T")

# Between the cell's coroutine and what shows its error there is nothing but the shell.
_SHELL_FILES = ("/IPython/core/interactiveshell.py", "/ipykernel/zmqshell.py")


@dataclass(frozen=True)
class Failure:
    """What is published of an error, and replied."""

    error: object
    name: str
    text: str
    lines: list[str]


class Failures:
    """Sees to it that exactly one `error` is published for a run whose reply has that status.

    IPython publishes none if a second interrupt comes while it formats a traceback, if it cannot
    format the traceback, and for a few kinds of exceptions; it publishes two if an interrupt comes
    when it has shown an error. Here the first error that ends a run is published, at once if
    IPython shows it and at the run's end otherwise, and is the one that the reply names.

    All methods are the main thread's.
    """

    def __init__(self, shell: Any, interrupts: Interrupts) -> None:
        self._shell = shell
        self._interrupts = interrupts
        # The coroutine that is run.
        self.cell: Any = None
        # What has ended the run, once it is published.
        self._ended_by: Failure | None = None
        # The last error that was shown, be it one that ends nothing.
        self._shown: Failure | None = None
        # Shown as a value was displayed: it ends nothing, and yet the run has failed.
        self._not_displayed: Failure | None = None
        self._format = shell.InteractiveTB.structured_traceback
        shell.InteractiveTB.structured_traceback = self._format_or_plainly
        shell._showtraceback = self._show
        # Versions of IPython that keep no errors in their history have none.
        self._format_to_remember: Any = getattr(shell, "_format_exception_for_storage", None)
        shell._format_exception_for_storage = self._remember

    def begin(self) -> None:
        """A run begins: nothing is published for it yet."""
        shell = self._shell
        self.cell = self._ended_by = self._shown = self._not_displayed = None
        shell._last_traceback = None
        # An interrupt may have left it.
        shell.displayhook.msg = None

    def settle(self, error: BaseException) -> None:
        """Publish what has ended the run, unless that has been done."""
        if self._ended_by is not None:
            return
        if self._shown is not None and self._shown.error is error:
            # By a handler of the user's, for instance.
            self._ended_by = self._shown
            return
        text = self._interruptible(lambda: str(error), "")
        lines = self._interruptible(lambda: _as_python(error), _plainly(error))
        self._ended_by = Failure(error, type(error).__name__, text, lines)
        self._publish(self._ended_by)

    def reply(self) -> Message | None:
        """The part of a reply that tells of the failure; None if there was none."""
        failure = self._ended_by or self._not_displayed
        if failure is None:
            return None
        # Nothing is held on to that belongs to the cell.
        self.cell = self._ended_by = self._shown = self._not_displayed = None
        return {
            "status": "error",
            "ename": failure.name,
            "evalue": failure.text,
            "traceback": failure.lines,
        }

    def _interruptible(self, make: Callable[[], T], otherwise: T) -> T:
        """What user code makes; `otherwise` if it fails or is interrupted."""
        interrupts = self._interrupts
        made = otherwise
        try:
            try:
                interrupts.entered = True
                made = make()
                interrupts.entered = False
            except BaseException:
                interrupts.entered = False
        except BaseException:
            # A second signal, in the moment before the line above.
            interrupts.entered = False
        return made

    def _format_or_plainly(self, etype: Any, value: Any, *args: Any, **options: Any) -> list[str]:
        """As IPython formats a traceback, or as Python does: IPython's code fails for some."""
        try:
            lines: list[str] = self._format(etype, value, *args, **options)
        except Exception:
            lines = _as_python(value)
        return lines

    def _show(self, etype: type[BaseException], value: BaseException, lines: list[str]) -> None:
        """In place of the shell's `_showtraceback`."""
        ends = self._ends_the_run()
        if ends and self._ended_by is not None:
            # It hit IPython's code behind the cell's own.
            return
        failure = Failure(value, etype.__name__, _text_of(value), lines)
        for stream in (sys.stdout, sys.stderr):
            # Perhaps the user's own, which passes on what was printed first and is seen first.
            if stream is not None:
                stream.flush()
        with self._interrupts.deferred():
            self._publish(failure)
            self._shown = failure
            if getattr(self._shell.displayhook, "msg", None) is not None:
                self._not_displayed = failure
            if ends:
                self._ended_by = failure
                if not self._shell.call_pdb:
                    # What comes now is too late for the cell.
                    self._interrupts.leave()

    def _publish(self, failure: Failure) -> None:
        shell, hook = self._shell, self._shell.displayhook
        flush_all()
        topic = hook.topic.replace(b"execute_result", b"error") if hook.topic else None
        content = {"traceback": failure.lines, "ename": failure.name, "evalue": failure.text}
        hook.session.send(
            hook.pub_socket, "error", json_clean(content), hook.parent_header, ident=topic
        )
        shell._last_traceback = failure.lines

    def _ends_the_run(self) -> bool:
        """Whether the shell shows by itself what has ended the cell's own code."""
        frame: Any = sys._getframe(2)
        cell = getattr(self.cell, "cr_frame", None)
        while frame is not None and frame.f_code.co_filename.endswith(_SHELL_FILES):
            if frame is cell:
                return True
            frame = frame.f_back
        return False

    def _remember(self, error: BaseException, *args: Any, **options: Any) -> Any:
        """What history keeps of an error; IPython would format the traceback once more."""
        if sys._getframe(1) is getattr(self.cell, "cr_frame", None):
            self.settle(error)
        failure = self._ended_by
        if failure is None:
            return self._format_to_remember(error, *args, **options)
        return {"ename": failure.name, "evalue": failure.text, "traceback": failure.lines}


def _text_of(error: BaseException) -> str:
    """What an error says, which is user code and can fail; it can be interrupted, too."""
    try:
        return str(error)
    except Exception:
        return ""


def _as_python(error: BaseException) -> list[str]:
    """An error as Python shows it, causes and groups included."""
    shown = traceback.format_exception(type(error), error, _own_part(error.__traceback__))
    return "".join(shown).splitlines()


def _plainly(error: BaseException) -> list[str]:
    """An error as Python shows it, without what user code would say."""
    places = "".join(traceback.format_tb(_own_part(error.__traceback__))).splitlines()
    return ["Traceback (most recent call last):", *places, type(error).__name__]


def _own_part(places: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the cell's own, if the error came from there."""
    part = places
    while part is not None and part.tb_frame.f_code.co_name != "run_code":
        part = part.tb_next
    return places if part is None or part.tb_next is None else part.tb_next
