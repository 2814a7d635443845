"""Forms, archives, patterns, names and JSON at random are understood, or refused as a whole."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from kernelagent.files import bulk
from prove.report import Report
from tests.files.broken import (
    check_json,
    check_names,
    check_patterns,
    send_broken_archives,
    send_broken_forms,
)
from tests.files.conftest import files_server
from tests.servers import Server

LIMIT = 600


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check_patterns(report.chance, 20_000, Path(directory))
    report.say("20,000 patterns")
    check_names(report.chance, 100_000)
    report.say("100,000 names")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "PIECE", 20)
        check_json(report.chance, 100_000)
    report.say("100,000 documents")
    with tempfile.TemporaryDirectory() as directory, files_server(Path(directory)) as server:
        asyncio.run(_send(report, server))


async def _send(report: Report, server: Server) -> None:
    async with server.client() as client:
        await send_broken_forms(client, report.chance, 4000)
        report.say("4,000 forms")
        await send_broken_archives(client, server.workspace, report.chance, 4000)
        report.say("4,000 archives")
