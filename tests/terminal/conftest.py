"""Servers whose shells read no files of the user's; one whose terminals are few, soon forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("terminals")
    with serving(root, HOME=str(root)) as running:
        yield running


@pytest.fixture(scope="module")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("little")
    with serving(
        root,
        HOME=str(root),
        KERNELAGENT_MAX_TERMINALS="2",
        KERNELAGENT_TERMINAL_SCROLLBACK=str(256 * 1024),
        KERNELAGENT_TERMINAL_IDLE_TIMEOUT="3",
        KERNELAGENT_TERMINAL_KEEP="3",
    ) as running:
        yield running
