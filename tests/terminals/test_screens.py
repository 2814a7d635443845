"""Full-screen programs, driven from outside and looked at through a terminal emulator."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyte
import pytest

from tests.servers import Server
from tests.terminals.console import QUIET, Console, call, console, terminal
from tests.waiting import PATIENCE, until

COLS, ROWS = 100, 30


class _Emulator(pyte.Screen):  # type: ignore[misc]  # it has no types
    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        # Vim asks for the state of the keyboard in this way, which is new to pyte.
        if not private:
            super().select_graphic_rendition(*attributes)


class Screen:
    """What a person would see."""

    def __init__(self, line: Console) -> None:
        self.line = line
        self.screen = _Emulator(COLS, ROWS)
        self._stream = pyte.Stream(self.screen)

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    async def until(self, condition: str | Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Look on until a text is to be seen, or something holds."""
        try:
            async with asyncio.timeout(seconds):
                while not (condition in self.text if isinstance(condition, str) else condition()):
                    message = await self.line.receive()
                    if message["type"] == "output":
                        self._stream.feed(message["data"])
        except TimeoutError:
            raise AssertionError(f"not to be seen: {condition}\n{self.text}") from None

    async def resize(self, cols: int, rows: int) -> None:
        self.screen.resize(rows, cols)
        await self.line.send("resize", cols=cols, rows=rows)


@contextlib.asynccontextmanager
async def screen(server: Server) -> AsyncIterator[Screen]:
    async with console(server, cols=COLS, rows=ROWS) as line:
        shown = Screen(line)
        await line.type("PS1='$ '; bind 'set enable-bracketed-paste off'; clear\n")
        await shown.until(lambda: shown.text.strip() == "$")
        yield shown


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


async def test_vim(server: Server) -> None:
    need("vim")
    (server.workspace / "poem.txt").write_text("".join(f"line {n} é€\n" for n in range(1, 101)))
    async with screen(server) as seen:
        await seen.line.type("vim -u NONE -N -n -i NONE --cmd 'set enc=utf-8 ruler' poem.txt\n")
        await seen.until("1,1")
        assert seen.rows[:3] == ["line 1 é€", "line 2 é€", "line 3 é€"]
        assert seen.rows[28] == "line 29 é€"
        await seen.line.type("GOthe last words: ü")
        await seen.until("-- INSERT --")
        await seen.until("the last words: ü")
        assert seen.rows[27:29] == ["line 99 é€", "the last words: ü"]
        await seen.line.type("\x1bgg:2d\n")
        await seen.until(lambda: seen.rows[:2] == ["line 1 é€", "line 3 é€"])
        await seen.resize(60, 12)
        # Vim may scroll by a line when its window shrinks.
        lines = ["line 1 é€", *(f"line {n} é€" for n in range(3, 14))]
        await seen.until(
            lambda: seen.rows[:11] in (lines[:11], lines[1:]) and "2,1" in seen.rows[11]
        )
        await seen.line.type(":wq\n")
        await seen.until(lambda: seen.text.rstrip().endswith("\n$"))
        await seen.line.type("echo d''one\n")
        await seen.until("done")
    written = (server.workspace / "poem.txt").read_text().splitlines()
    assert len(written) == 100
    assert written[:2] == ["line 1 é€", "line 3 é€"]
    assert written[-2:] == ["the last words: ü", "line 100 é€"]


async def test_vim_is_the_same_after_a_reconnection(server: Server) -> None:
    need("vim")
    lines = "".join(f"verse {n}\n" for n in range(1, 101))
    (server.workspace / "verses.txt").write_text(lines)
    wanted = {"args": ["-u", "NONE", "-N", "-n", "-i", "NONE", "verses.txt"]}
    async with terminal(server, command="vim", cols=COLS, rows=ROWS, **wanted) as path:
        async with console(server, path) as line:
            seen = Screen(line)
            await seen.until("verse 29")
            await line.type("50Gzt")
            await seen.until(lambda: seen.rows[0] == "verse 50")
            before, position = seen.screen, line.messages[-1]["next_offset"]
            line.connection.transport.abort()
        async with console(server, path) as line:
            # From the beginning, as a page that was loaded anew.
            again = Screen(line)
            await line.until_type("attached")
            await again.until(lambda: line.messages[-1].get("next_offset", 0) >= position)
            assert again.screen.display == before.display
            assert again.screen.cursor.y == before.cursor.y
            await line.type(":q!\n")
            assert (await line.until_type("exit"))["code"] == 0


async def test_htop(server: Server) -> None:
    need("htop")
    async with screen(server) as seen:
        # What is not there when it searches it does not find later.
        await seen.line.type(
            "bash -c 'exec -a needle-in-the-list sleep 300' & "
            'until [ "$(ps -o args= $!)" = "needle-in-the-list 300" ]; do sleep 0.01; done; '
            "htop -d 5\n"
        )
        await seen.until("F10")
        assert "PID" in seen.text
        assert "Load average" in seen.text
        assert "F1Help" in seen.rows[-1].replace(" ", "")
        await seen.line.type("/needle-in\n")
        await seen.until("needle-in-the-list")
        await seen.resize(80, 20)
        await seen.until(lambda: len(seen.rows) == 20 and "F1Help" in seen.rows[19])
        await seen.line.type("q")
        await seen.until(lambda: "F1Help" not in seen.text or "$" in seen.rows[-1])
        await seen.line.type("clear; echo d''one\n")
        await seen.until(lambda: seen.rows[0] == "done")


async def test_a_progress_bar(server: Server) -> None:
    (server.workspace / "bar.py").write_text(
        "import sys, time\n"
        "for n in range(101):\n"
        "    bar = '█' * (n // 2) + ' ' * (50 - n // 2)\n"
        "    print(f'\\r{n:3}% [{bar}]', end='', flush=True)\n"
        "    time.sleep(0.005)\n"
        "print()\n"
    )
    async with screen(server) as seen:
        states: set[str] = set()

        def done() -> bool:
            states.update(row for row in seen.rows if "%" in row)
            return any(row == "100% [" + "█" * 50 + "]" for row in seen.rows)

        await seen.line.type("python3 bar.py; echo d''one\n")
        await seen.until(done)
        await seen.until("done")
        # It has moved, on one line.
        assert len(states) > 5
        assert sum("%" in row for row in seen.rows) == 1


async def test_colours_and_the_title(server: Server) -> None:
    async with screen(server) as seen:
        await seen.line.type(
            r"printf '\033]2;a title\007\033[38;2;1;2;3mtrue\033[0m \033[1;31mbold\033[0m\n'"
            "\n"
        )
        await seen.until(lambda: any(row == "true bold" for row in seen.rows))
        row = seen.rows.index("true bold")
        assert seen.screen.title == "a title"
        assert seen.screen.buffer[row][0].fg == "010203"
        assert (seen.screen.buffer[row][5].fg, seen.screen.buffer[row][5].bold) == ("red", True)


async def test_jobs_are_stopped_and_go_on(server: Server) -> None:
    async with terminal(server, **QUIET) as path, console(server, path) as line:
        await line.type("stty -echo; printf 'o%s\\n' n\n")
        await line.until("on\r\n")
        await line.type("sh -c 'echo in; exec sleep 300'\n")
        await line.until("in\r\n")
        await line.type("\x1a")
        await line.until("Stopped")
        await line.type("bg; jobs\n")
        await line.until("Running")
        shell = (await call(server, "GET", path))["pid"]
        await line.type("fg\n")

        async def is_in_front() -> bool:
            # A key before that would be for the shell.
            stat = Path(f"/proc/{shell}/stat").read_text().rpartition(") ")[2].split()
            return int(stat[5]) != int(shell)

        await until(is_in_front)
        await line.type("\x03")
        await line.type("echo status $?\n")
        await line.until("status 130\r\n")
