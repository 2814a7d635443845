"""A job's log is followed whole over ten cuts of the connection, a line every 10 ms for a minute.

Over NDJSON and server-sent events at once. The cuts come at random moments: in the middle of a
message, while the next connection is made, before its first byte.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from prove.report import Report
from tests.jobs.cutting import Follower, Proxy
from tests.jobs.jobs import output, start
from tests.servers import Server, serving

LIMIT = 180

_LINES = 6000
_PAUSE = 0.01
_CUTS = 10
_CODE = f"import time\nfor n in range({_LINES}):\n    print(n, flush=True); time.sleep({_PAUSE})"


def prove(report: Report) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ka-cuts-") as directory,
        serving(Path(directory), KERNELAGENT_PRELOAD="") as server,
    ):
        asyncio.run(_follow_both(report, server))


async def _follow_both(report: Report, server: Server) -> None:
    job_id = await start(server, _CODE, timeout=LIMIT)
    async with asyncio.TaskGroup() as group:
        for media_type in ("application/x-ndjson", "text/event-stream"):
            group.create_task(_follow(report, server, job_id, media_type))


async def _follow(report: Report, server: Server, job_id: str, media_type: str) -> None:
    async with Proxy(server) as proxy:
        following = asyncio.create_task(Follower(proxy, server, job_id, media_type).follow())
        began = time.monotonic()
        longest = _LINES * _PAUSE * 0.9
        for moment in sorted(report.chance.uniform(0.1, longest) for _ in range(_CUTS)):
            await asyncio.wait([following], timeout=began + moment - time.monotonic())
            proxy.cut()
            report.say(f"{media_type}: cut {proxy.cuts} after {moment:.2f} s")
        messages = await following
    expected = b"".join(b"%d\n" % n for n in range(_LINES))
    report.check(output(messages) == expected, f"{media_type}: no line is lost, none comes twice")
    gaps = sum(message["type"] == "gap" for message in messages)
    report.figure(f"{media_type}: gaps", gaps, most=0)
    report.check(messages[-1]["status"] == "completed", f"{media_type}: the end is told")
    report.check(proxy.cuts > 0, f"{media_type}: the connection was cut")
