from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from kernelagent.client import AsyncClient
from tests.client.twins import Awaited

Connect = Callable[..., AsyncClient]


@pytest.fixture(params=[AsyncClient, Awaited], ids=["asynchronous", "synchronous"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Make a client: one twin, then the other."""
    return cast(Connect, request.param)
