"""Which form of what a run shows is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernelagent.cli.printer import Printer
from kernelagent.cli.terminal import Inline

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5E"
    "rkJggg=="
)


def rich(mime: str, data: Any, *, primary: bool = False, output: int = 1) -> dict[str, Any]:
    return {"type": "rich", "mime": mime, "data": data, "primary": primary, "output": output}


def test_printer_shows_images_inline_and_joins_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = Printer("plot", directory=tmp_path, protocol=Inline.ITERM, save_inlined=False)
    half = len(PIXEL) // 2

    printer.show(
        {**rich("image/png", PIXEL[:half], primary=True), "part": 1, "parts": 2, "encoding": "text"}
    )
    printer.show(
        {**rich("image/png", PIXEL[half:], primary=True), "part": 2, "parts": 2, "encoding": "text"}
    )
    printer.show(rich("text/plain", "<Figure size 640x480>"))
    printer.finish()

    printed = capsys.readouterr().out
    assert PIXEL in printed
    assert "Figure" not in printed
    assert list(tmp_path.iterdir()) == []


def test_printer_falls_back_to_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = Printer("plot", directory=tmp_path, protocol=None, save_inlined=False)

    printer.show(rich("text/html", "<p>only</p>", primary=True))
    printer.show(rich("application/json", {"a": 1}, primary=True, output=2))
    printer.show(rich("application/vnd.thing+json", {}, primary=True, output=3))
    printer.show(rich("text/plain", "thing()", output=3))
    printer.show(rich("application/vnd.other", {}, primary=True, output=4))
    printer.show({"type": "error", "message": "the queue is full", "code": "QUEUE_FULL"})

    captured = capsys.readouterr()
    assert captured.out == '<p>only</p>\n{\n  "a": 1\n}\nthing()\n[application/vnd.other]\n'
    assert captured.err == "kernelagent: the queue is full\n"
