"""Clients that hang up, wait, or do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.execution.streams import EVENT_STREAM, waiting
from tests.runs import NDJSON, client_of, run, session, session_facts, until_busy
from tests.servers import Server
from tests.waiting import until


@contextlib.asynccontextmanager
async def raw_post(server: Server, accept: str, **body: Any) -> AsyncIterator[asyncio.StreamReader]:
    """A request on a socket of its own, which is closed when the context is left."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = (
        f"POST /execute HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n"
        f"Authorization: Bearer {server.token}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("accept", ["application/json", NDJSON, EVENT_STREAM])
async def test_client_that_hangs_up_frees_the_session_for_the_next_run(
    server: Server, accept: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    code = (
        f"import time, pathlib\nseen = ['begun']\npathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(60)\nseen.append('ended')"
    )

    async def has_begun() -> bool:
        return begun.exists()

    async with session(server) as session_id:
        async with raw_post(server, accept, code=code, session_id=session_id, timeout=90):
            await until(has_begun)
            queued = asyncio.create_task(run(server, "seen", session_id=session_id))
            await until_busy(server, session_id, queued=1)

        answer = await queued
        facts = await session_facts(server, session_id)

    assert answer["result"] == "['begun']"
    assert answer["state_lost"] is False
    assert [entry["outcome"] for entry in facts["transcript"]] == ["cancelled", "ok"]


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_client_that_hangs_up_while_it_waits_leaves_the_queue(
    server: Server, accept: str, tmp_path: Path
) -> None:
    async with session(server) as session_id:
        first = asyncio.create_task(run(server, waiting(tmp_path / "go"), session_id=session_id))
        await until_busy(server, session_id)
        async with raw_post(server, accept, code="ran = 1", session_id=session_id):
            await until_busy(server, session_id, queued=1)
        await until_busy(server, session_id, queued=0)

        (tmp_path / "go").touch()
        await first
        answer = await run(server, "'ran' in dir()", session_id=session_id)

    assert answer["result"] == "False"


@pytest.mark.parametrize("accept", ["application/json", NDJSON, EVENT_STREAM])
async def test_run_goes_on_without_its_client_if_that_was_wished(
    server: Server, accept: str, tmp_path: Path
) -> None:
    async with session(server) as session_id:
        async with raw_post(
            server,
            accept,
            code=f"print('x')\n{waiting(tmp_path / 'go')}\nended = True",
            session_id=session_id,
            on_disconnect="continue",
        ):
            await until_busy(server, session_id)
        (tmp_path / "go").touch()

        answer = await run(server, "ended", session_id=session_id)

    assert answer["result"] == "True"


async def test_isolated_run_whose_client_hangs_up_leaves_no_session(server: Server) -> None:
    async with client_of(server) as client:

        async def isolated() -> list[str]:
            items = (await client.get("/sessions")).json()["sessions"]
            return [item["id"] for item in items if item["id"].startswith("isolated-")]

        async with raw_post(
            server, NDJSON, code="import time; time.sleep(60)", isolated=True, timeout=90
        ):
            await until(isolated)

        async def is_gone() -> bool:
            return not await isolated()

        await until(is_gone)


async def test_client_that_reads_nothing_does_not_hold_up_the_session(server: Server) -> None:
    code = "for n in range(300): print('x' * 100_000)"
    async with (
        session(server) as session_id,
        raw_post(server, NDJSON, code=code, session_id=session_id, max_output_bytes=2**26),
    ):
        answer = await run(server, "1 + 1", session_id=session_id)

    assert answer["result"] == "2"


async def test_sessions_survive_many_clients_that_hang_up(server: Server) -> None:
    async with session(server) as session_id:
        await run(server, "kept = 1", session_id=session_id)
        for _ in range(5):
            async with raw_post(
                server, NDJSON, code="import time; time.sleep(60)", session_id=session_id
            ):
                await until_busy(server, session_id)

        answer = await run(server, "kept", session_id=session_id)

    assert answer["result"] == "1"
