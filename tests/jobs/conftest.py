"""Servers with other limits than the usual ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, serving


@pytest.fixture(scope="module")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs one job of each kind at once, and lets three wait."""
    root = tmp_path_factory.mktemp("little")
    with serving(
        root,
        KERNELAGENT_JOB_KERNELS="1",
        KERNELAGENT_JOB_COMMANDS="1",
        KERNELAGENT_JOB_QUEUE="3",
        KERNELAGENT_JOBS_KEPT="5",
        KERNELAGENT_KEEPALIVE="0.2",
    ) as running:
        yield running
