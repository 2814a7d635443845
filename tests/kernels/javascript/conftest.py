"""The host of most tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A JavaScript host in an empty directory."""
    host = Host("javascript")
    host.driver.configure({}, [], str(tmp_path))
    try:
        yield host
    finally:
        host.close()
