"""10,000 hostile paths to /files reach nothing outside, nor do names that change meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from prove.report import Report
from tests.files.hostile import (
    WAYS,
    application,
    attack,
    client_of,
    move_directory,
    set_traps,
    swap_names,
)

LIMIT = 900
REQUESTS = 5000
SWAPS = 300
MOVES = 3000


def prove(report: Report) -> None:
    for way in WAYS:
        with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as runtime_dir:
            asyncio.run(_prove(report, Path(root), Path(runtime_dir), way))


async def _prove(report: Report, root: Path, runtime_dir: Path, way: str) -> None:
    set_traps(root)
    with application(root, runtime_dir, way) as app:
        async with client_of(app) as client:
            statuses = await attack(client, root, report.chance, REQUESTS)
            report.say(f"{way}: {dict(sorted(statuses.items()))}")
            for status in (200, 403):
                report.check(statuses[status] > REQUESTS // 10, f"{way}: many are {status}")
            swaps, succeeded = await swap_names(client, root, SWAPS)
            report.say(f"{way}: {swaps} swaps, {succeeded} requests succeeded")
            report.check(swaps > SWAPS, f"{way}: names were swapped while they were used")
            await move_directory(client, root, MOVES)
