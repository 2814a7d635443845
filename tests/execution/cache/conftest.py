"""Fixtures of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file that the code of `counting` makes longer by a byte whenever it runs."""
    return tmp_path / "runs"
