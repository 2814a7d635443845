"""Servers whose shells read no files of the user's; one that has little room for terminals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import WITHOUT_KERNELS, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("terminals")
    with serving(root, HOME=str(root), **WITHOUT_KERNELS) as running:
        yield running


@pytest.fixture(scope="session")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("little")
    with serving(
        root,
        HOME=str(root),
        KERNELAGENT_MAX_TERMINALS="2",
        KERNELAGENT_TERMINAL_SCROLLBACK=str(256 * 1024),
        **WITHOUT_KERNELS,
    ) as running:
        yield running
