"""What a terminal is asked to do: show images, read lines."""

from __future__ import annotations

import asyncio
import base64
import os
import pty
import termios

import pytest

from kernelagent.cli.terminal import Inline, LineReader, inline_image, inline_protocol
from tests.waiting import until


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, Inline.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Inline.KITTY),
        ({"TERM": "xterm-ghostty"}, Inline.KITTY),
        ({"TERM_PROGRAM": "iTerm.app"}, Inline.ITERM),
        ({"TERM_PROGRAM": "WezTerm"}, Inline.ITERM),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm"}, None),
    ],
)
def test_terminals_that_show_images(environment: dict[str, str], protocol: Inline | None) -> None:
    assert inline_protocol(environment) == protocol


def test_kitty_images_are_sent_in_chunks() -> None:
    content = bytes(range(256)) * 40
    drawing = inline_image(Inline.KITTY, "image/png", content)

    assert drawing is not None
    parts = drawing.removesuffix("\n").split("\x1b\\")[:-1]
    heads, chunks = zip(*(part.removeprefix("\x1b_G").split(";") for part in parts), strict=True)
    assert heads == ("a=T,f=100,m=1", "m=1", "m=1", "m=0")
    assert all(len(chunk) <= 4096 for chunk in chunks)
    assert base64.b64decode("".join(chunks)) == content
    assert inline_image(Inline.KITTY, "image/svg+xml", b"<svg/>") is None
    assert inline_image(Inline.ITERM, "image/jpeg", b"x") == (
        "\x1b]1337;File=inline=1;size=1:eA==\x07\n"
    )


async def test_hidden_lines_are_not_echoed() -> None:
    terminal, program = pty.openpty()
    try:
        reader = LineReader(program)
        answer = asyncio.create_task(reader.line(hidden=True))
        await until(lambda: not termios.tcgetattr(program)[3] & termios.ECHO)
        os.write(terminal, b"secret\n")
        assert await answer == "secret"
        assert termios.tcgetattr(program)[3] & termios.ECHO
        os.write(terminal, b"\x04")
        assert await reader.line() is None
        os.write(terminal, b"again\n")
        assert await reader.line() == "again"
    finally:
        os.close(terminal)
        os.close(program)
