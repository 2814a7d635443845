"""Streams that are silent for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.execution.streams import EVENT_STREAM, waiting
from tests.runs import (
    Message,
    client_of,
    messages,
    run,
    session,
    streamed,
    text_of,
    types,
    until_busy,
)
from tests.servers import Service, serving_in_process

# Seconds of silence.
KEEPALIVE = 0.2


@pytest.fixture(scope="module")
def lively_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that sends a keepalive soon."""
    root = tmp_path_factory.mktemp("lively")
    with serving_in_process(root, keepalive=KEEPALIVE, preload=()) as running:
        yield running


async def test_keepalives_follow_silence(lively_server: Service, tmp_path: Path) -> None:
    async with streamed(lively_server, waiting(tmp_path / "go")) as response:
        items: list[Message] = []
        async for item in messages(response):
            items.append(item)
            if types(items).count("keepalive") == 2:
                (tmp_path / "go").touch()

    assert types(items).count("keepalive") >= 2
    assert types(items)[-1] == "complete"


async def test_keepalives_come_in_the_queue_too(lively_server: Service, tmp_path: Path) -> None:
    async with session(lively_server) as session_id:
        first = asyncio.create_task(
            run(lively_server, waiting(tmp_path / "go"), session_id=session_id)
        )
        await until_busy(lively_server, session_id)

        async with streamed(lively_server, "2", session_id=session_id) as response:
            stream = messages(response)
            before = [await anext(stream) for _ in range(3)]
            assert not first.done()
            (tmp_path / "go").touch()
            after = [item async for item in stream]
        await first

    assert types(before) == ["keepalive"] * 3
    assert types(after)[-1] == "complete"


async def test_keepalive_of_an_event_stream_is_a_comment(
    lively_server: Service, tmp_path: Path
) -> None:
    body = {"code": waiting(tmp_path / "go")}
    async with (
        client_of(lively_server, Accept=EVENT_STREAM) as client,
        client.stream("POST", "/execute", json=body) as response,
    ):
        text = ""
        async for piece in response.aiter_text():
            text += piece
            if ": keepalive" in text:
                (tmp_path / "go").touch()

    assert "\n\n: keepalive\n\n" in text
    assert "event: keepalive" not in text


async def test_steady_output_needs_no_keepalive(lively_server: Service) -> None:
    code = "import time\nfor n in range(20): print(n, flush=True); time.sleep(0.06)"

    async with streamed(lively_server, code) as response:
        items = [item async for item in messages(response)]

    # Where a busy machine was silent for long enough, one is due.
    moments = [datetime.fromisoformat(item["timestamp"]) for item in items]
    for before, moment, item in zip(moments, moments[1:], items[1:], strict=False):
        if item["type"] == "keepalive":
            assert (moment - before).total_seconds() > 0.9 * KEEPALIVE
    assert text_of(items) == "".join(f"{n}\n" for n in range(20))
