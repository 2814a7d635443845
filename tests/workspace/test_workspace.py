"""The name that published clients have for the workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelagent.workspace import paths as module
from kernelagent.workspace.paths import real_path


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that clients use and the machine has not."""
    name = str(tmp_path / "absent")
    monkeypatch.setattr(module, "CLIENTS_NAME", name)
    return name


def test_it_means_the_workspace_where_the_machine_has_none(absent: str, tmp_path: Path) -> None:
    assert real_path(absent, tmp_path) == str(tmp_path)
    assert real_path(f"{absent}/a/../b ", tmp_path) == f"{tmp_path}/a/../b "


def test_other_paths_stay(absent: str, tmp_path: Path) -> None:
    for path in ("a", "", "/", f"{absent}s", f"/x{absent}", f"./{absent}"):
        assert real_path(path, tmp_path) == path


def test_a_directory_of_that_name_is_itself(absent: str, tmp_path: Path) -> None:
    Path(absent).mkdir()
    assert real_path(f"{absent}/a", tmp_path / "elsewhere") == f"{absent}/a"
