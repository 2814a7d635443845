"""Fixtures of the engine's tests: engines on real and on faulty kernels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from jupyter_client.kernelspec import KernelSpec

from kernelagent.jupyter.engine import Engine
from kernelagent.jupyter.execution import Execution, Result, RunRequest
from kernelagent.jupyter.languages import Language, Languages
from kernelagent.jupyter.outputs import Budget
from kernelagent.jupyter.session import Session
from kernelagent.settings import Settings
from tests.kernels.faulty.faulty_spec import write_faulty_spec


class EngineFactory(Protocol):
    """Makes opened engines that are closed after the test."""

    async def __call__(self, *, fault: str = "", **changes: Any) -> Engine: ...


@pytest.fixture
async def faulty_engine(settings: Settings, tmp_path: Path) -> AsyncIterator[EngineFactory]:
    """Engines whose `python` is the faulty kernel; its start-up fault and settings as given."""
    engines: list[Engine] = []

    async def make(*, fault: str = "", **changes: Any) -> Engine:
        interrupt_mode = changes.pop("interrupt_mode", "signal")
        environment = {"FAULT": fault} if fault else {}
        if changes.pop("no_welcome", False):
            environment["FAULT_NO_WELCOME"] = "1"
        folder = write_faulty_spec(
            tmp_path, name=f"faulty{len(engines)}", env=environment, interrupt_mode=interrupt_mode
        )
        spec = KernelSpec.from_resource_dir(str(folder))
        languages = Languages([Language("python", (), spec)])
        changes = {"pool_idle": 0, "interrupt_grace": 0.4, **changes}
        engine = Engine(settings.model_copy(update=changes), languages)
        engines.append(engine)
        await engine.__aenter__()
        return engine

    yield make
    for engine in engines:
        await engine.close()


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Engine]:
    """An engine on real Python kernels."""
    async with Engine(settings) as running:
        yield running


def submit(session: Session, code: str, **fields: Any) -> Execution:
    """Queue `code` with generous limits unless `fields` say otherwise."""
    given = {
        "timeout": 30.0,
        "queue_timeout": 60.0,
        "request_timeout": 60.0,
        "budget": Budget(1 << 20, 100),
        **fields,
    }
    feed = given.pop("feed", None)
    return session.submit(RunRequest(code=code, **given), feed=feed)


async def run(session: Session, code: str, **fields: Any) -> Result:
    """The result of `code`."""
    return await submit(session, code, **fields).finished


def shown(result: Result) -> list[str]:
    """The outputs in one word each: streams as their text, the rest by type."""
    return [
        output["text"] if output["output_type"] == "stream" else output["output_type"]
        for output in result.outputs
    ]


def text_of(result: Result, name: str = "stdout") -> str:
    """All text of one stream."""
    return "".join(output["text"] for output in result.outputs if output.get("name") == name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
