from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.servers import Server, serving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service as a user has it: with a key of its own, and a log that shows what it does."""
    with serving(
        tmp_path_factory.mktemp("service"),
        secret=None,
        python=(sys.executable, "-W", "default"),
        KERNELAGENT_LOG_LEVEL="info",
    ) as running:
        yield running
