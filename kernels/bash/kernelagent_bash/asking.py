"""Lines for programs that wait for somebody to type."""

from __future__ import annotations

from collections.abc import Callable

from kernelagent_bash.shell import Shell
from kernelagent_bash.terminal import Terminal
from kernelagent_bash.waiting import awaited_terminal
from kernelagent_host.host import Listener

# What a terminal holds of one line, without its end (termios(3), canonical mode).
LONGEST_LINE = 4094

_END_OF_FILE = b"\x04"
_LITERALLY = b"\x16"
_PLAIN = b"\t\n"
# A program that takes single keys gets them one by one: a short answer may be meant for several.
_PORTIONS = 64


class Asker:
    """Notices that a program waits, asks the listener, and types its answer."""

    def __init__(self, listener: Listener, shell: Shell) -> None:
        self._listener = listener
        self._shell = shell
        self._terminal: Terminal = shell.input
        self._asked = False
        self._keys = b""

    @property
    def typing(self) -> bool:
        """Whether keys are left to be typed soon."""
        return bool(self._keys)

    def forget(self) -> None:
        """Nothing was asked, or it no longer matters."""
        self._asked = False
        self._keys = b""

    def look(self, take_prompt: Callable[[], str] | None) -> bool:
        """Ask if something waits, and tell whether it does.

        Without `take_prompt` nobody can answer: what waits is denied.
        """
        shell = self._shell
        if self._asked:
            return True
        if shell.control.unread or shell.input.unread:
            return False
        name = awaited_terminal(shell.pid, (shell.input.name, shell.control.name))
        if name is None:
            return False
        terminal = shell.input if name == shell.input.name else shell.control
        if self._keys and terminal is self._terminal and terminal.takes_keys:
            self._type_keys()
            return True
        self._keys = b""
        self._terminal = terminal
        if take_prompt is None:
            terminal.type(_END_OF_FILE)
            return True
        self._asked = True
        # Programs that take single keys show them by themselves, whatever the terminal does.
        password = not (terminal.echoes or terminal.takes_keys)
        self._listener.ask(take_prompt(), password=password)
        return True

    def answer(self, line: str) -> None:
        if not self._asked:
            return
        self._asked = False
        data = line.encode("utf-8", "replace")
        if self._terminal.takes_keys:
            self._keys = data + b"\n"
            self._type_keys()
        elif len(data) > LONGEST_LINE:
            complaint = f"the line has {len(data)} bytes: a terminal takes {LONGEST_LINE} at most\n"
            self._listener.stream("stderr", complaint.encode())
            self._terminal.type(_END_OF_FILE)
        else:
            if self._terminal is self._shell.control:
                self._shell.expect_echo(_echo(data) + b"\n")
            self._terminal.type(_literal(data) + b"\n")

    def deny(self) -> None:
        if self._asked:
            self._asked = False
            self._terminal.type(_END_OF_FILE)

    def _type_keys(self) -> None:
        count = max(1, len(self._keys) // _PORTIONS)
        portion, self._keys = self._keys[:count], self._keys[count:]
        self._terminal.type(portion)


def _literal(data: bytes) -> bytes:
    """`data` so that the terminal takes none of its characters as an order."""
    typed = bytearray()
    for byte in data:
        if (byte < 0x20 and byte not in _PLAIN) or byte == 0x7F:
            typed += _LITERALLY
        typed.append(byte)
    return bytes(typed)


def _echo(data: bytes) -> bytes:
    """What a terminal shows of `data`."""
    shown = bytearray()
    for byte in data:
        if (byte < 0x20 and byte not in _PLAIN) or byte == 0x7F:
            # The first pair is of the character that has this one taken literally.
            shown += b"^\b^"
            byte ^= 0x40  # noqa: PLW2901
        shown.append(byte)
    return bytes(shown)
