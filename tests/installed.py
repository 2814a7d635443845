"""Programs that tests run, found where the service finds them; a test without its program is
skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelagent.jupyter.requirements import find_command

_SCRIPTS = Path(__file__).parent / "clients" / "javascript"


def program(name: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    path = find_command(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def javascript_client(script: str) -> tuple[str, str]:
    """Return the command that runs a script of `tests/clients/javascript`; skip without it."""
    node = program("node")
    if not (_SCRIPTS / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed")
    return node, str(_SCRIPTS / script)
