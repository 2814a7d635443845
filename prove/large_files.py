"""A gigabyte up and down takes 50 MiB of the server's memory, 100 MiB of JSON hold up nobody."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from prove.report import Report
from tests.files.conftest import files_server
from tests.files.large import HELD_UP, MIB, MOST_GROWTH, send_text, transfer

LIMIT = 300
SIZE = 1024 * MIB


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory() as directory, files_server(Path(directory)) as server:
        for name, grown in asyncio.run(transfer(server, SIZE)).items():
            report.figure(
                f"growth by the {name}", grown / MIB, "MiB", most=MOST_GROWTH * SIZE / MIB
            )
        writing, reading = asyncio.run(send_text(server, 100 * MIB))
        for name, pulse in (("writing", writing), ("reading", reading)):
            report.figure(f"held up while {name} JSON", pulse.most, "s", most=HELD_UP)
