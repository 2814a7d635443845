"""Figures do not outlive their test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels.python.charts.reading import plt


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")
