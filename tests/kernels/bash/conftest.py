"""The shell of the tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host


@pytest.fixture
def bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A shell in an empty directory."""
    monkeypatch.chdir(tmp_path)
    host = Host("bash")
    yield host
    host.close()
