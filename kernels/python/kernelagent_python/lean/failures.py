"""A run that fails says so twice, whatever happens meanwhile: by an output and by its reply."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from ipykernel.jsonutil import json_clean

from kernelagent_python.lean.interrupts import Interrupts

Message = dict[str, Any]


class Failures:
    """Sees to it that exactly one `error` is published for a reply whose status is `error`.

    IPython publishes none if a second interrupt comes while it formats a traceback, if it cannot
    format it, and for a few kinds of exceptions. All methods are the main thread's.
    """

    def __init__(self, shell: Any, interrupts: Interrupts) -> None:
        self._shell = shell
        self._interrupts = interrupts
        self._published: tuple[str, str] | None = None
        self._format = shell.InteractiveTB.structured_traceback
        shell.InteractiveTB.structured_traceback = self._format_or_plainly
        shell._showtraceback = self._publish
        self._format_to_remember = shell._format_exception_for_storage
        shell._format_exception_for_storage = self._remember

    def begin(self) -> None:
        """A run begins: nothing is published for it yet."""
        self._published = None

    def told_by_reply(self, error: BaseException | None, *, late: bool = False) -> Message:
        """The part of a reply that tells of `error`; of None if showing a value has failed.

        An error that came `late`, in code around the cell, does not replace what was published.
        """
        lines = self._shell._last_traceback
        if self._published is not None and (error is None or late):
            name, text = self._published
        elif error is not None:
            name, text = type(error).__name__, self._text_of(error)
            lines = lines or _plainly(error)
        else:
            name, text = "Error", ""
        return {"status": "error", "ename": name, "evalue": text, "traceback": lines or []}

    def publish_missing(self, reply: Message) -> None:
        """Publish the failure that `reply` tells of, unless that has been done."""
        if self._published is None or self._published[0] != reply["ename"]:
            self._send(reply["ename"], reply["evalue"], reply["traceback"])

    def _text_of(self, error: BaseException) -> str:
        """What `error` says. That may be user code: it can be interrupted, and fail."""
        interrupts = self._interrupts
        text = ""
        try:
            try:
                interrupts.entered = True
                text = str(error)
                interrupts.entered = False
            except BaseException:
                interrupts.entered = False
        except BaseException:
            # A second signal, in the moment before the line above.
            interrupts.entered = False
        return text

    def _format_or_plainly(self, etype: Any, value: Any, tb: Any, *args: Any, **named: Any) -> Any:
        try:
            return self._format(etype, value, tb, *args, **named)
        except Exception:
            return traceback.format_exception(etype, value, tb)

    def _publish(self, etype: type[BaseException], value: object, lines: list[str]) -> None:
        """In place of the shell's `_showtraceback`."""
        self._send(etype.__name__, str(value), lines)

    def _remember(self, error: BaseException, *args: Any, **named: Any) -> Any:
        """What history keeps of an error; IPython would format its traceback once more."""
        if self._published is None or self._published[0] != type(error).__name__:
            return self._format_to_remember(error, *args, **named)
        name, text = self._published
        return {"ename": name, "evalue": text, "traceback": self._shell._last_traceback}

    def _send(self, name: str, text: str, lines: list[str]) -> None:
        shell = self._shell
        hook = shell.displayhook
        content = {"traceback": lines, "ename": name, "evalue": text}
        # What was printed first is seen first.
        sys.stdout.flush()
        sys.stderr.flush()
        # Sent as a whole, and known to be sent.
        with self._interrupts.deferred():
            if getattr(hook, "msg", None) is not None:
                # It failed as its value was shown.
                shell._last_traceback_during_displayhook = True
            topic = hook.topic.replace(b"execute_result", b"error") if hook.topic else None
            hook.session.send(
                hook.pub_socket, "error", json_clean(content), hook.parent_header, ident=topic
            )
            shell._last_traceback = lines
            self._published = (name, text)


def _plainly(error: BaseException) -> list[str]:
    """A traceback as plain Python shows it, without what user code would say."""
    lines = traceback.format_tb(error.__traceback__)
    return ["Traceback (most recent call last):\n", *lines, f"{type(error).__name__}\n"]
