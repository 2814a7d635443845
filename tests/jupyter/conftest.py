"""Fixtures of the engine's tests: engines on real and on faulty kernels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec

from kernelagent.jupyter.languages import Language, Languages
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.settings import Settings
from tests.jupyter.engines import EngineFactory
from tests.kernels.faulty.faulty_spec import write_faulty_spec
from tests.waiting import PATIENCE


@pytest.fixture
async def faulty_engine(settings: Settings, tmp_path: Path) -> AsyncIterator[EngineFactory]:
    """Engines whose `python` is the faulty kernel; its start-up fault and settings as given."""
    stack = AsyncExitStack()
    made = 0

    async def make(*, fault: str = "", **changes: Any) -> Engine:
        nonlocal made
        made += 1
        interrupt_mode = changes.pop("interrupt_mode", "signal")
        environment = {"FAULT": fault} if fault else {}
        if changes.pop("no_welcome", False):
            environment["FAULT_NO_WELCOME"] = "1"
        folder = write_faulty_spec(
            tmp_path, name=f"faulty{made}", env=environment, interrupt_mode=interrupt_mode
        )
        spec = KernelSpec.from_resource_dir(str(folder))
        languages = Languages([Language("python", (), spec)])
        changes = {"pool_idle": 0, "interrupt_grace": 0.4, **changes}
        engine = open_engine(settings.model_copy(update=changes), languages)
        return await stack.enter_async_context(engine)

    async with stack:
        yield make


@pytest.fixture(scope="module")
async def module_engine(module_settings: Settings) -> AsyncIterator[Engine]:
    """An engine on real Python kernels, which import what they need by themselves."""
    changes = {"preload": (), "interrupt_grace": PATIENCE}
    async with open_engine(module_settings.model_copy(update=changes)) as running:
        yield running


@pytest.fixture
async def engine(module_engine: Engine) -> AsyncIterator[Engine]:
    """The engine of the module, without sessions before and after the test."""
    yield module_engine
    for session in module_engine.sessions:
        await module_engine.close_session(session.id)
