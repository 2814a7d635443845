"""Engines on real and on faulty kernels, and runs on their sessions."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from jupyter_client.kernelspec import KernelSpec

from kernelagent.jupyter.events import Event
from kernelagent.jupyter.languages import Language, Languages
from kernelagent.jupyter.outputs import Budget
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.sessions.events import Feed
from kernelagent.sessions.execution import Execution, Result, RunRequest
from kernelagent.sessions.session import Session
from kernelagent.settings import Settings, load_settings
from tests.kernels.faulty.faulty_spec import write_faulty_spec
from tests.servers import SECRET
from tests.waiting import PATIENCE


class EngineFactory(Protocol):
    """Makes opened engines that are closed after the test."""

    async def __call__(self, *, fault: str = "", **changes: Any) -> Engine: ...


@contextlib.contextmanager
def settings_below(directory: Path, **changes: Any) -> Iterator[Settings]:
    """Settings of an engine without pools that touches nothing outside of `directory`."""
    # A short path: pytest's own are too long for sockets.
    with tempfile.TemporaryDirectory(prefix="ka-test-") as runtime_dir:
        given = {
            "workspace": directory / "workspace",
            "state_dir": directory / "state",
            "runtime_dir": Path(runtime_dir),
            "jwt_secret": SECRET,
            "pool_idle": 0,
        }
        yield load_settings(**{**given, **changes})


def submit(session: Session, code: str, **fields: Any) -> Execution:
    """Queue `code` with generous limits unless `fields` say otherwise."""
    given = {
        "timeout": PATIENCE,
        "queue_timeout": PATIENCE,
        "request_timeout": PATIENCE,
        "budget": Budget(1 << 20, 100),
        **fields,
    }
    feed = given.pop("feed", None)
    execution = session.submit(RunRequest(code=code, **given))
    if feed is not None:
        execution.follow(feed)
    return execution


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


async def first_of(feed: Feed, kind: type[Event]) -> Event:
    """The first event of `kind`, as soon as it comes."""
    while events := await feed.next():
        for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the run ended without {kind.__name__}")


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
