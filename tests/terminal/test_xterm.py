"""Full-screen programs as xterm.js shows them: what browsers have, without a page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server

_SCRIPT = Path(__file__).parent.parent / "clients" / "javascript" / "screen.mjs"
_COLS, _ROWS = 100, 30


class Xterm:
    """One terminal in xterm.js."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._steps, self._shown = process.stdin, process.stdout

    def step(self, **step: Any) -> None:
        self._steps.write(json.dumps(step).encode() + b"\n")

    def type(self, keys: str) -> None:
        self.step(type="input", data=keys)

    async def look(self, until: str) -> dict[str, Any]:
        """What is on the screen once `until` is."""
        self.step(until=until)
        self.step(show=True)
        async with asyncio.timeout(30):
            seen: dict[str, Any] = json.loads(await self._shown.readline())
        return seen


@pytest.fixture
async def xterm(server: Server) -> AsyncIterator[Xterm]:
    url = f"{server.websocket_url}/terminal?cols={_COLS}&rows={_ROWS}&binary=1"
    process = await asyncio.create_subprocess_exec(
        "node",
        str(_SCRIPT),
        url,
        server.token,
        str(_COLS),
        str(_ROWS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        shown = Xterm(process)
        shown.type("PS1='$ '; clear; echo ready\n")
        await shown.look("ready\n$")
        yield shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


async def test_vim(xterm: Xterm, server: Server) -> None:
    need("vim")
    file = server.workspace / "verse.py"
    file.write_text("".join(f"x{n} = 'é€ {n}'\n" for n in range(1, 101)))
    xterm.type(
        "vim -u NONE -N -n -i NONE --cmd 'set enc=utf-8 ruler' "
        "-c 'syn match A /[0-9]/ | syn match B /é/ | hi A ctermfg=1 | hi B ctermfg=2' verse.py\n"
    )
    seen = await xterm.look("1,1")
    assert seen["buffer"] == "alternate"
    assert seen["lines"][:2] == ["x1 = 'é€ 1'", "x2 = 'é€ 2'"]
    assert seen["lines"][28] == "x29 = 'é€ 29'"
    assert seen["colours"] >= 2
    xterm.type("50Gdd")
    assert "x51 = 'é€ 51'" in (await xterm.look("50,1"))["lines"]
    xterm.step(type="resize", cols=60, rows=12)
    seen = await xterm.look("50,1")
    assert len(seen["lines"]) == 12
    xterm.type(":wq\r")
    seen = await xterm.look("$ vim")
    # What was there before is there again.
    assert seen["buffer"] == "normal"
    assert "x50 =" not in file.read_text()


async def test_htop(xterm: Xterm) -> None:
    need("htop")
    xterm.type("htop -d 5\n")
    seen = await xterm.look("F10")
    assert seen["buffer"] == "alternate"
    assert any("Mem[" in line for line in seen["lines"])
    assert seen["lines"][-1].startswith("F1Help")
    xterm.type("q")
    assert (await xterm.look("$ htop"))["buffer"] == "normal"


async def test_a_progress_bar_stays_in_its_line(xterm: Xterm) -> None:
    xterm.type(
        "clear; for n in $(seq 20 20 100); do printf '\\r[%-20s] %3d%%' "
        "$(printf '#%.0s' $(seq $((n / 5)))) $n; done; echo; echo en''d\n"
    )
    seen = await xterm.look("end\n$")
    assert f"[{'#' * 20}] 100%" in seen["lines"]
    assert sum("%" in line and "[" in line and "#" in line for line in seen["lines"]) == 1
