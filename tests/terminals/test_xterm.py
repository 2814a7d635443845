"""Full-screen programs as a browser shows them: xterm.js, which also answers their questions."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest

from tests.installed import javascript_client
from tests.servers import Server
from tests.waiting import PATIENCE


async def screens(server: Server, *steps: dict[str, Any]) -> list[dict[str, Any]]:
    """What is on the screen at each step that shows it."""
    url = f"{server.websocket_url}/terminal?cols=100&rows=30"
    node = await asyncio.create_subprocess_exec(
        *javascript_client("screen.mjs"),
        url,
        server.token,
        "100",
        "30",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        lines = "".join(f"{json.dumps(step)}\n" for step in steps)
        output, _ = await asyncio.wait_for(node.communicate(lines.encode()), PATIENCE)
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    assert node.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


def keys(text: str) -> dict[str, Any]:
    return {"type": "input", "data": text}


_READY = (keys("PS1='$ '; clear; echo re''ady\n"), {"until": "ready\n$"})
_SHOW = {"show": True}


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
async def test_vim(server: Server) -> None:
    (server.workspace / "song.txt").write_text("".join(f"line {n} é€\n" for n in range(1, 101)))
    first, typed, smaller, after = await screens(
        server,
        *_READY,
        keys("vim -u NONE -Nni NONE --cmd 'set enc=utf-8 ls=2 stl=%{&lines}x%{&co}' song.txt\n"),
        {"until": "30x100"},
        _SHOW,
        keys("Onew words: ü"),
        {"until": "new words: ü"},
        _SHOW,
        {"type": "resize", "cols": 60, "rows": 12},
        {"until": "12x60"},
        _SHOW,
        keys("\x1b:q!\n"),
        {"until": "$ vim"},
        keys("echo d''one\n"),
        {"until": "done"},
        _SHOW,
    )
    assert (first["buffer"], first["cursor"]) == ("alternate", [0, 0])
    assert [line.rstrip() for line in first["lines"][:28]] == [f"line {n} é€" for n in range(1, 29)]
    assert [line.rstrip() for line in typed["lines"][:2]] == ["new words: ü", "line 1 é€"]
    assert len(smaller["lines"]) == 12
    assert smaller["lines"][10].startswith("12x60")
    # The screen from before comes back.
    assert after["buffer"] == "normal"
    assert "song.txt" in "".join(after["lines"])


@pytest.mark.skipif(shutil.which("htop") is None, reason="htop is not installed")
async def test_htop(server: Server) -> None:
    shown, after = await screens(
        server,
        *_READY,
        keys("htop -d 5\n"),
        {"until": "F10"},
        {"until": "Load average"},
        _SHOW,
        keys("q"),
        {"until": "$ htop"},
        _SHOW,
    )
    assert shown["buffer"] == "alternate"
    assert shown["colours"] >= 3
    assert shown["lines"][29].startswith("F1Help")
    assert after["buffer"] == "normal"
