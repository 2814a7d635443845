"""Much output and much work at once: nothing is lost, nothing out of order, /health answers.

A kernel prints without pause; forty sessions print at once; two hundred jobs are taken at once.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prove.report import Report
from tests.jobs.jobs import get
from tests.runs import client_of, messages, run, session, streamed
from tests.servers import Server, serving
from tests.waiting import until

LIMIT = 300

_FLOOD_SECONDS = 20
_SESSIONS = 40
_LINES = 20_000
_JOBS = 200
# Seconds, of /health meanwhile; of two hundred, p95 is some milliseconds on an idle machine.
_SLOWEST = 5.0
_P95 = 0.25


def prove(report: Report) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ka-floods-") as directory,
        serving(Path(directory), KERNELAGENT_PRELOAD="") as server,
    ):
        asyncio.run(_one_kernel(report, server))
        asyncio.run(_many_sessions(report, server))
        asyncio.run(_many_jobs(report, server, Path(directory) / "trace"))


async def _one_kernel(report: Report, server: Server) -> None:
    """One that prints numbers for a while, in a stream with room for all of them."""
    code = (
        f"import time\nn, end = 0, time.monotonic() + {_FLOOD_SECONDS}\n"
        "while time.monotonic() < end:\n    print(n)\n    n += 1\nn"
    )
    count, rest, in_order, result = 0, "", True, ""
    async with (
        _watched_health(report, server, "a kernel that prints without pause"),
        streamed(server, code, timeout=LIMIT, max_output_bytes=2**28) as response,
    ):
        async for message in messages(response):
            if message["type"] == "stdout":
                *lines, rest = (rest + message["data"]).split("\n")
                in_order = in_order and lines == [str(count + n) for n in range(len(lines))]
                count += len(lines)
            elif message["type"] == "result":
                result = message.get("result", "")
    report.figure("lines", count)
    report.check(in_order, "the lines of a flood come in order")
    report.check(result == str(count), f"{result} lines were printed, {count} came")


async def _many_sessions(report: Report, server: Server) -> None:
    """Many that are made at once, and print at once."""
    expected = "".join(f"{n}\n" for n in range(_LINES))

    async def print_lines() -> bool:
        async with session(server) as session_id:
            code = f"for n in range({_LINES}): print(n)"
            answer = await run(server, code, session_id=session_id, timeout=LIMIT)
            return bool(answer["stdout"] == expected)

    async with _watched_health(report, server, f"{_SESSIONS} sessions"):
        whole = await asyncio.gather(*(print_lines() for _ in range(_SESSIONS)))
    report.figure("sessions that lost a line", whole.count(False), most=0)


async def _many_jobs(report: Report, server: Server, trace: Path) -> None:
    """More than run at once by far, sent at once: each is run, once, in the order of the list."""

    async def submit(number: int) -> str:
        async with client_of(server) as client:
            body = {"code": f"print({number}, file=open({str(trace)!r}, 'a'))"}
            response = await client.post("/execute/background", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["process_id"])

    async def listed() -> list[dict[str, str]]:
        found = (await get(server, "/execute/processes"))["processes"]
        return [item for item in found if item["process_id"] in jobs]

    async def have_ended() -> bool:
        return all(item["status"] not in ("queued", "running") for item in await listed())

    async with _watched_health(report, server, f"{_JOBS} jobs"):
        jobs = set(await asyncio.gather(*(submit(number) for number in range(_JOBS))))
        await until(have_ended, LIMIT)
    found = await listed()
    report.figure("jobs that did not complete", _JOBS - _completed(found), most=0)
    begun = [item["start_time"] for item in found]
    report.check(begun == sorted(begun), "jobs begin in the order in which they were taken")
    report.check(_numbers(trace) == list(range(_JOBS)), "each job runs once")


def _numbers(trace: Path) -> list[int]:
    return sorted(map(int, trace.read_text().split()))


def _completed(jobs: list[dict[str, str]]) -> int:
    return sum(job["status"] == "completed" for job in jobs)


@asynccontextmanager
async def _watched_health(report: Report, server: Server, what: str) -> AsyncIterator[None]:
    """Ask for /health all the time, and report how soon it answered."""
    times: list[float] = []

    async def ask() -> None:
        async with client_of(server) as client:
            while True:
                began = time.monotonic()
                response = await client.get("/health")
                assert response.json()["status"] == "healthy"
                times.append(time.monotonic() - began)
                await asyncio.sleep(0.01)

    report.say(what)
    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])
    if not asking.cancelled():
        report.check(False, f"/health answers: {asking.exception()}")
    times.sort()
    report.figure("answers of /health meanwhile", len(times))
    if times:
        report.figure("p95 of /health", round(times[len(times) * 95 // 100], 4), "s", most=_P95)
        report.figure("slowest /health", round(times[-1], 4), "s", most=_SLOWEST)
