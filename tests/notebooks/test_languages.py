"""The notebooks of the languages, replayed as a user would, against a real service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.command_line import kernelagent
from tests.servers import Server

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

# What each must have shown, by MIME type and by text.
EXPECTED = {
    "bash": ({"text/html", "image/svg+xml", "text/markdown"}, "42\n"),
    "javascript": ({"text/html", "image/svg+xml"}, ""),
    "typescript": ({"text/html"}, ""),
    "go": ({"text/html"}, ""),
}


@pytest.mark.parametrize("language", EXPECTED)
def test_the_notebook_of_a_language_replays(server: Server, tmp_path: Path, language: str) -> None:
    path = NOTEBOOKS / f"{language}.ipynb"
    done = kernelagent(
        *("replay", str(path), "--out", str(tmp_path)),
        cwd=tmp_path,
        KERNELAGENT_URL=server.url,
        KERNELAGENT_TOKEN=server.token,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    executed: Any = nbformat.read(tmp_path / path.name, as_version=4)
    assert executed.metadata["language_info"]["name"] == language
    outputs = [
        output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not [output for output in outputs if output.output_type == "error"]
    types, text = EXPECTED[language]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert types <= shown
    assert text in "".join(output.get("text", "") for output in outputs)
