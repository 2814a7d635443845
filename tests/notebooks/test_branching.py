"""The notebook that shows branches, run as it is against a real service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.runs import client_of
from tests.servers import Server

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "branching.ipynb"


def outputs(notebook: Any) -> list[Any]:
    """Everything that its cells have shown."""
    return [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def text(notebook: Any) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


async def named_sessions(server: Server) -> list[str]:
    """The ids of the sessions that somebody has named."""
    async with client_of(server) as http:
        sessions = (await http.get("/sessions")).json()["sessions"]
    return [one["id"] for one in sessions if one["name"]]


async def test_the_notebook_runs_and_leaves_no_session(server: Server) -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    # nbclient gives the kernel its environment; a token never comes from the notebook.
    environment = {
        **os.environ,
        "KERNELAGENT_URL": server.url,
        "KERNELAGENT_TOKEN": server.token,
        "PYTHONWARNINGS": "ignore",
    }
    client = NotebookClient(notebook, kernel_name="python3", timeout=120)
    before = await named_sessions(server)

    await client.async_execute(env=environment)

    assert pictures(notebook) == 1
    assert "best: lowest frequencies" in text(notebook)
    assert text(notebook).count("restored: (9.8, 365)") == 3
    assert await named_sessions(server) == before


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOK.parent.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_notebooks_are_shipped_without_traces_of_a_machine(path: Path) -> None:
    content = path.read_text()
    for trace in ("/home/", "/root/", "/Users/", "/tmp/", "WARNING", "Traceback"):
        assert trace not in content


def test_the_branching_notebook_is_shipped_with_its_results() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert pictures(notebook) == 1
    assert all(cell.outputs for cell in notebook.cells[5:] if cell.cell_type == "code")
