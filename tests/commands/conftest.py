"""Servers for commands that need one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import WITHOUT_KERNELS, Server, Service, serving, serving_in_process


@pytest.fixture(scope="session")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Runs two commands at once, and is rarely silent."""
    with serving_in_process(
        tmp_path_factory.mktemp("little"),
        keepalive=0.2,
        max_commands=2,
        pool_idle=0,
        fork_server=False,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def server_at_leisure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose memory is measured: it does nothing else."""
    with serving(tmp_path_factory.mktemp("leisure"), **WITHOUT_KERNELS) as running:
        yield running
