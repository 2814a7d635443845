"""Servers whose shells read no files of the user's; one whose terminals are few, soon forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, start_server, stop_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("terminals")
    running = start_server(root / "workspace", root / "state", HOME=str(root))
    try:
        yield running
    finally:
        stop_server(running)


@pytest.fixture(scope="module")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("little")
    running = start_server(
        root / "workspace",
        root / "state",
        HOME=str(root),
        KERNELAGENT_MAX_TERMINALS="2",
        KERNELAGENT_TERMINAL_SCROLLBACK=str(256 * 1024),
        KERNELAGENT_TERMINAL_IDLE_TIMEOUT="3",
        KERNELAGENT_TERMINAL_KEEP="3",
    )
    try:
        yield running
    finally:
        stop_server(running)
