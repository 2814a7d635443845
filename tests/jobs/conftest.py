"""Servers with other limits than the usual ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Service, serving_in_process


@pytest.fixture(scope="module")
def server_with_little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that runs one job of each kind at once, lets three wait, and cuts early."""
    with serving_in_process(
        tmp_path_factory.mktemp("little"),
        preload=(),
        job_kernels=1,
        job_commands=1,
        job_queue=3,
        jobs_kept=5,
        keepalive=0.2,
        output_bytes=2**20,
        interrupt_grace=0.5,
    ) as running:
        yield running
