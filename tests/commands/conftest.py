"""A server whose streams are rarely silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, serving


@pytest.fixture(scope="module")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("little")
    with serving(
        root,
        KERNELAGENT_KEEPALIVE="0.2",
        KERNELAGENT_MAX_COMMANDS="2",
    ) as running:
        yield running
