"""Logs that are followed, over connections that break and to ends of all kinds."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernelagent.cli.follower import LogFollower
from kernelagent.client import AsyncClient, ServiceError, ServiceUnreachable
from tests.cli.jobs import job_facts, start_command, wait_for_end
from tests.cli.proxy import Proxy
from tests.command_line import start
from tests.programs import Command
from tests.servers import Service
from tests.waiting import until

LOST = b"it is taken up again"


@dataclass
class Follower:
    """`kernelagent logs` of a job, through a proxy."""

    proxy: Proxy
    job_id: str
    _command: Command

    async def line(self) -> bytes:
        """The next line of its stdout."""
        return await asyncio.to_thread(self._command.stdout.readline)

    async def finish(self) -> tuple[bytes, bytes, int]:
        """The rest of its stdout, its stderr and its exit code."""
        out, err = await asyncio.to_thread(self._command.finish)
        return out, err, self._command.wait()


@asynccontextmanager
async def following(service: Service, script: str, *options: str) -> AsyncIterator[Follower]:
    """Follow a job, which is ended in the end."""
    async with Proxy(service.url).listening() as proxy:
        job_id = await asyncio.to_thread(
            start_command, service, script, workdir=str(service.workspace)
        )
        environment = {**service.environment, "KERNELAGENT_URL": proxy.url}
        with await asyncio.to_thread(
            partial(start, "logs", "-f", job_id, *options, cwd=service.directory, **environment)
        ) as running:
            yield Follower(proxy, job_id, running)
        await asyncio.to_thread(service.request, "POST", f"/jobs/{job_id}/kill")


async def test_cut_connections_lose_nothing_and_repeat_nothing(service: Service) -> None:
    end = service.workspace / "end-of-lines"
    script = f"for ((i = 0; ; i++)); do echo line $i; [ -e {end} ] && exit 5; sleep 0.01; done"
    chance = random.Random(20)  # noqa: S311 - no secret
    async with following(service, script) as follower:
        printed = b"".join([await follower.line() for _ in range(4)])
        for _ in range(10):
            # Each message has about 150 bytes, so that nearly every cut falls into one.
            await follower.proxy.cut_after(chance.randrange(400, 2500))
        end.touch()
        rest, told, code = await follower.finish()
        log = (await asyncio.to_thread(job_facts, service, follower.job_id))["log"]

    lines = (printed + rest).decode().splitlines()
    assert lines == [f"line {number}" for number in range(len(lines))]
    assert len(printed + rest) == log["bytes"]
    assert code == 5
    assert told.count(LOST) == told.count(b"\n") == 10


async def test_server_that_is_away_is_waited_for_and_told_of_once(service: Service) -> None:
    go_on = service.workspace / "go-on"
    script = f"echo first; until [ -e {go_on} ]; do sleep 0.02; done; echo second"
    async with following(service, script) as follower:
        assert await follower.line() == b"first\n"
        follower.proxy.refusing = True
        follower.proxy.cut()
        await until(lambda: follower.proxy.refused >= 3)
        go_on.touch()
        await asyncio.to_thread(wait_for_end, service, follower.job_id)
        follower.proxy.refusing = False
        rest, told, code = await follower.finish()

    assert (rest, code) == (b"second\n", 0)
    assert told.count(LOST) == told.count(b"\n") == 1


async def test_server_that_stays_away_is_given_up(service: Service) -> None:
    async with following(service, "echo first; sleep 60", "--retry", "0.5") as follower:
        assert await follower.line() == b"first\n"
        follower.proxy.refusing = True
        follower.proxy.cut()
        _, told, code = await follower.finish()

    assert code == 1
    assert follower.proxy.refused >= 1
    assert told.splitlines()[-1].startswith(b"kernelagent: ")
    assert b"Traceback" not in told


async def test_job_that_is_forgotten_meanwhile_is_an_error(service: Service) -> None:
    async with following(service, "echo first; sleep 60") as follower:
        assert await follower.line() == b"first\n"
        follower.proxy.refusing = True
        follower.proxy.cut()
        await asyncio.to_thread(service.request, "DELETE", f"/jobs/{follower.job_id}")
        follower.proxy.refusing = False
        _, told, code = await follower.finish()

    assert code == 1
    assert told.splitlines()[-1].decode() == f"kernelagent: the job is gone: {follower.job_id}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_following_and_not_the_job(
    service: Service, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    job_id = start_command(service, "echo going; sleep 60")
    with start("logs", "-f", job_id, cwd=tmp_path, **service.environment) as process:
        assert process.stdout.readline() == b"going\n"
        process.send_signal(number)
        assert process.wait() == code
        told = process.stderr.read().decode()

    assert told == f"kernelagent: the job goes on; end it with: kernelagent kill {job_id}\n"
    assert job_facts(service, job_id)["status"] == "running"
    service.request("POST", f"/jobs/{job_id}/kill")


@pytest.mark.parametrize("then", ["yes", "sleep 60"])
def test_closed_pipe_ends_quietly(service: Service, tmp_path: Path, then: str) -> None:
    job_id = start_command(service, f"echo first; {then}", timeout=60)
    with start("logs", "-f", job_id, cwd=tmp_path, **service.environment) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        assert process.wait() == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""
    service.request("POST", f"/jobs/{job_id}/kill")


class Answers(httpx.AsyncBaseTransport):
    """Gives prepared answers, one for each request."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.offsets: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.offsets.append(request.url.params["offset"])
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def log_line(offset: int, data: str) -> str:
    return (
        f'{{"type":"log","stream":"stdout","offset":{offset},'
        f'"next_offset":{offset + len(data)},"data":"{data}"}}\n'
    )


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return sum(self.pauses)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("kernelagent.cli.follower.time", clock)
    monkeypatch.setattr("kernelagent.cli.follower.asyncio", clock)
    return clock


END = '{"type":"end","status":"completed","next_offset":4,"exit_code":0,"message":""}\n'


async def follow(answers: Answers, *, retry: float = 5) -> tuple[list[dict[str, Any]], int]:
    """The messages, and how many losses there were."""
    losses: list[Exception] = []
    async with AsyncClient("http://service.invalid", transport=answers) as client:
        follower = LogFollower(
            client, "x", offset=0, stream=None, follow=True, retry=retry, on_loss=losses.append
        )
        return [message async for message in follower.messages()], len(losses)


@pytest.mark.usefixtures("clock")
async def test_every_way_to_lose_a_connection_is_taken_up_again() -> None:
    answers = Answers(
        # Ended as though it were whole, within a line.
        httpx.Response(200, text=log_line(0, "ab") + '{"type":"lo'),
        httpx.Response(502, text="<html>"),
        httpx.ReadTimeout("silent"),
        # Ended as though it were whole, before the end of the job.
        httpx.Response(200, text=log_line(2, "cd")),
        httpx.Response(200, text=END),
    )

    messages, losses = await follow(answers)

    assert [message.get("data") for message in messages] == ["ab", "cd", None]
    assert answers.offsets == ["0", "2", "2", "2", "4"]
    assert losses == 2


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_refusal_is_not_asked_again(status: int) -> None:
    answers = Answers(httpx.Response(200, text=log_line(0, "ab")), httpx.Response(status))

    with pytest.raises(ServiceError):
        await follow(answers)


async def test_time_without_an_answer_is_limited(clock: Clock) -> None:
    answers = Answers(*(httpx.ConnectError("refused") for _ in range(3)))

    with pytest.raises(ServiceUnreachable):
        await follow(answers, retry=0.7)

    assert len(answers.offsets) == 3
    assert clock.pauses == [0.2, 0.4]
