"""A server whose streams are rarely silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, start_server, stop_server


@pytest.fixture(scope="module")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("little")
    running = start_server(
        root / "workspace",
        root / "state",
        KERNELAGENT_KEEPALIVE="0.2",
        KERNELAGENT_MAX_COMMANDS="2",
    )
    try:
        yield running
    finally:
        stop_server(running)
