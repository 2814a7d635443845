"""What the terminal can do: show images, ask for a line without blocking the event loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
import termios
from collections.abc import Iterator, Mapping
from enum import StrEnum

_KITTY_CHUNK = 4096


class Inline(StrEnum):
    """Protocols by which terminals show images."""

    KITTY = "kitty"
    ITERM = "iterm"


def inline_protocol(environment: Mapping[str, str]) -> Inline | None:
    """How the terminal that `environment` describes shows images, if it does."""
    term = environment.get("TERM", "")
    program = environment.get("TERM_PROGRAM", "")
    if term.startswith(("tmux", "screen")):
        # They keep such sequences for themselves, whatever terminal is around them.
        return None
    if term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return Inline.KITTY
    if program in ("iTerm.app", "WezTerm"):
        return Inline.ITERM
    return Inline.KITTY if environment.get("KITTY_WINDOW_ID") else None


def inline_image(protocol: Inline, mime: str, content: bytes) -> str | None:
    """What to write so that the terminal shows the image; None if it cannot show this type."""
    data = base64.b64encode(content).decode()
    if protocol is Inline.ITERM:
        if mime == "image/svg+xml":
            return None
        return f"\x1b]1337;File=inline=1;size={len(content)}:{data}\x07\n"
    if mime != "image/png":
        return None
    chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks, 1):
        control = "a=T,f=100," if number == 1 else ""
        more = int(number < len(chunks))
        parts.append(f"\x1b_G{control}m={more};{chunk}\x1b\\")
    return "".join(parts) + "\n"


class LineReader:
    """Reads lines from a descriptor, asynchronously where the system can wait for it.

    A thread in `input()` could not be stopped by Ctrl-C or by the end of the run.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._ended = False

    async def line(self, *, hidden: bool = False) -> str | None:
        """The next line without its end; None at the end of the input."""
        with self._without_echo() if hidden else contextlib.nullcontext():
            while b"\n" not in self._buffer and not self._ended:
                await self._wait()
                data = os.read(self._descriptor, 65536)
                self._buffer += data
                self._ended = not data
        if not self._buffer:
            # On a terminal, Ctrl-D ends one answer and not the input.
            self._ended = not os.isatty(self._descriptor)
            return None
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line.removesuffix(b"\r").decode("utf-8", "replace")

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, readable.set)
        except PermissionError:  # a file, which is always readable
            return
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._descriptor)

    @contextlib.contextmanager
    def _without_echo(self) -> Iterator[None]:
        if not os.isatty(self._descriptor):
            yield
            return
        before = termios.tcgetattr(self._descriptor)
        silent = [*before]
        silent[3] = before[3] & ~termios.ECHO
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, silent)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, before)
            sys.stderr.write("\n")
