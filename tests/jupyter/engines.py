"""Settings of engines, and runs on their sessions."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from kernelagent.jupyter.events import Event
from kernelagent.jupyter.outputs import Budget
from kernelagent.sessions.engine import Engine
from kernelagent.sessions.events import Feed
from kernelagent.sessions.execution import Execution, Result, RunRequest
from kernelagent.sessions.session import Session
from kernelagent.settings import Settings, load_settings
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
