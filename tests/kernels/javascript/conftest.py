"""The hosts of the tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host, opened


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A JavaScript host in an empty directory."""
    with opened(tmp_path, "javascript") as host:
        yield host


@pytest.fixture(scope="module")
def module_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host of cells that stand by themselves."""
    with opened(tmp_path_factory.mktemp("javascript"), "javascript") as host:
        yield host


@pytest.fixture
def shared(module_host: Host, tmp_path: Path) -> Host:
    """The same one, in an empty directory."""
    module_host.driver.configure({}, [], str(tmp_path))
    return module_host
