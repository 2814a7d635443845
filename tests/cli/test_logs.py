from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernelagent.cli.follower import LogFollower
from kernelagent.client import ServiceClient, ServiceError, ServiceUnreachable
from tests.cli.background import command, job_facts, start, start_command, wait_for_end
from tests.cli.proxy import Proxy
from tests.cli.service import KERNELAGENT, Service, clean_environment, serving, wait_until

LOST = b"it is taken up again"


async def start_following(
    service: Service, url: str, *arguments: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *KERNELAGENT,
        "logs",
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(**{**service.environment, "KERNELAGENT_URL": url}),
    )


async def test_cut_connections_lose_nothing_and_repeat_nothing(service: Service) -> None:
    script = "for ((i = 0; i < 600; i++)); do echo line $i; sleep 0.01; done; exit 5"
    chance = random.Random(20)  # noqa: S311 - no secret
    async with Proxy(service.url).listening() as proxy:
        job_id = await asyncio.to_thread(start_command, service, script)
        process = await start_following(service, proxy.url, "-f", job_id)
        assert process.stdout is not None
        printed = await process.stdout.readuntil(b"line 3\n")
        for _ in range(10):
            # Each message has about 150 bytes, so that nearly every cut falls into one.
            await proxy.cut_after(chance.randrange(400, 2500))
        rest, told = await process.communicate()

    assert (printed + rest).decode().splitlines() == [f"line {number}" for number in range(600)]
    assert process.returncode == 5
    assert told.count(LOST) == told.count(b"\n") == 10


async def test_server_that_is_away_is_waited_for_and_told_of_once(service: Service) -> None:
    script = "echo first; until [ -e go ]; do sleep 0.02; done; echo second"
    folder = service.directory / "workspace" / "away"
    folder.mkdir(parents=True, exist_ok=True)
    async with Proxy(service.url).listening() as proxy:
        job_id = await asyncio.to_thread(start_command, service, script, workdir=str(folder))
        process = await start_following(service, proxy.url, "-f", job_id)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"first\n"
        proxy.refusing = True
        proxy.cut()
        while proxy.refused < 4:
            await asyncio.sleep(0.01)
        (folder / "go").touch()
        await asyncio.to_thread(wait_for_end, service, job_id)
        proxy.refusing = False
        rest, told = await process.communicate()

    assert (rest, process.returncode) == (b"second\n", 0)
    assert told.count(LOST) == told.count(b"\n") == 1


async def test_server_that_stays_away_is_given_up(service: Service) -> None:
    async with Proxy(service.url).listening() as proxy:
        job_id = await asyncio.to_thread(start_command, service, "echo first; sleep 60")
        process = await start_following(service, proxy.url, "-f", job_id, "--retry", "0.5")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"first\n"
        proxy.refusing = True
        proxy.cut()
        _, told = await process.communicate()

    assert process.returncode == 1
    assert proxy.refused >= 1
    assert told.splitlines()[-1].startswith(b"kernelagent: ")
    assert b"Traceback" not in told


async def test_job_that_is_forgotten_meanwhile_is_an_error(service: Service) -> None:
    async with Proxy(service.url).listening() as proxy:
        job_id = await asyncio.to_thread(start_command, service, "echo first; sleep 60")
        process = await start_following(service, proxy.url, "-f", job_id)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"first\n"
        proxy.refusing = True
        proxy.cut()
        await asyncio.to_thread(service.request, "DELETE", f"/jobs/{job_id}")
        proxy.refusing = False
        _, told = await process.communicate()

    assert process.returncode == 1
    assert told.splitlines()[-1].decode() == f"kernelagent: the job is gone: {job_id}"


def test_bytes_come_as_they_were_printed(service: Service, tmp_path: Path) -> None:
    script = r"printf '\xff\xfe\x00\r'; printf 'h\xc3'; printf '\xa9'; printf '\xe2\x82'"
    job_id = start_command(service, script)
    wait_for_end(service, job_id)

    for options in ([], ["-f"]):
        done = command(service, "logs", job_id, *options, cwd=tmp_path)
        assert done.stdout == b"\xff\xfe\x00\rh\xc3\xa9\xe2\x82"
        assert (done.stderr, done.returncode) == (b"", 0)


def test_streams_are_kept_apart_and_chosen(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "echo out; echo err >&2; exit 3")
    wait_for_end(service, job_id)

    both = command(service, "logs", job_id, cwd=tmp_path)
    followed = command(service, "logs", "--follow", job_id, cwd=tmp_path)
    out = command(service, "logs", job_id, "--stream", "stdout", cwd=tmp_path)
    err = command(service, "logs", job_id, "--stream", "stderr", "-f", cwd=tmp_path)

    assert (both.stdout, both.stderr, both.returncode) == (b"out\n", b"err\n", 0)
    assert (followed.stdout, followed.stderr, followed.returncode) == (b"out\n", b"err\n", 3)
    assert (out.stdout, out.stderr, out.returncode) == (b"out\n", b"", 0)
    assert (err.stdout, err.stderr, err.returncode) == (b"", b"err\n", 3)


def test_offset_and_tail(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "printf 0123456789; exit 4")
    wait_for_end(service, job_id)

    def printed(*options: str) -> tuple[bytes, int]:
        done = command(service, "logs", job_id, *options, cwd=tmp_path)
        assert done.stderr == b""
        return done.stdout, done.returncode

    assert printed("--offset", "7") == (b"789", 0)
    assert printed("--offset", "99") == (b"", 0)
    assert printed("--tail", "4") == (b"6789", 0)
    assert printed("--tail", "0") == (b"", 0)
    assert printed("--tail", "99") == (b"0123456789", 0)
    assert printed("--tail", "2", "-f") == (b"89", 4)
    refused = command(service, "logs", job_id, "--tail", "1", "--offset", "1", cwd=tmp_path)
    assert refused.returncode == 2


def test_lines_begin_with_their_time(service: Service, tmp_path: Path) -> None:
    # The pause makes two messages of the first line.
    job_id = start_command(service, "printf a; sleep 0.3; printf 'b\\nc\\rd\\n'; echo e >&2")
    wait_for_end(service, job_id)

    done = command(service, "logs", job_id, "--timestamps", cwd=tmp_path)

    time = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"
    assert re.fullmatch(time + rb" ab\n" + time + rb" c\rd\n", done.stdout)
    assert re.fullmatch(time + rb" e\n", done.stderr)


def test_gap_is_told_with_its_size(tmp_path: Path) -> None:
    with serving(tmp_path, KERNELAGENT_JOB_LOG_BYTES="65536") as service:
        script = "for ((i = 0; i < 20000; i++)); do printf '%050d\\n' $i; done; exit 9"
        job_id = start_command(service, script)
        facts = wait_for_end(service, job_id)
        done = command(service, "logs", "-f", job_id, cwd=tmp_path)

    missing = re.fullmatch(rb"kernelagent: (\d+) bytes are missing here: .*\n", done.stderr)
    assert missing is not None
    assert facts["log"]["bytes"] == 51 * 20000
    assert int(missing[1]) == facts["log"]["cut_bytes"] == 51 * 20000 - len(done.stdout)
    assert done.stdout.startswith(b"%050d\n%050d\n" % (0, 1))
    assert done.stdout.endswith(b"%050d\n" % 19999)
    assert done.returncode == 9


def test_what_a_running_job_has_printed_ends(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "yes", timeout=60)
    wait_until(lambda: job_facts(service, job_id)["log"]["bytes"] > 100_000)

    done = command(service, "logs", job_id, "--stream", "stdout", cwd=tmp_path)
    service.request("POST", f"/jobs/{job_id}/kill")

    assert done.returncode == 0
    assert set(done.stdout) == set(b"y\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_following_and_not_the_job(
    service: Service, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    job_id = start_command(service, "echo going; sleep 60")
    with start(service, "logs", "-f", job_id, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"going\n"
        process.send_signal(number)
        assert process.wait(30) == code
        told = process.stderr.read().decode()

    assert told == f"kernelagent: the job goes on; end it with: kernelagent kill {job_id}\n"
    assert job_facts(service, job_id)["status"] == "running"
    service.request("POST", f"/jobs/{job_id}/kill")


@pytest.mark.parametrize("then", ["yes", "sleep 60"])
def test_closed_pipe_ends_quietly(service: Service, tmp_path: Path, then: str) -> None:
    job_id = start_command(service, f"echo first; {then}", timeout=60)
    with start(service, "logs", "-f", job_id, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""
    service.request("POST", f"/jobs/{job_id}/kill")


def test_why_a_job_ended_is_told_once(service: Service, tmp_path: Path) -> None:
    signalled = start_command(service, "kill -KILL $$")
    stopped = start_command(service, "sleep 60", timeout=0.2)
    for job_id in (signalled, stopped):
        wait_for_end(service, job_id)

    first = command(service, "logs", "-f", signalled, cwd=tmp_path)
    second = command(service, "logs", "-f", stopped, cwd=tmp_path)
    apart = command(service, "logs", "-f", stopped, "--stream", "stdout", cwd=tmp_path)

    reason = job_facts(service, signalled)["message"]
    assert first.stderr.decode() == f"{reason}\n"
    assert first.returncode == 137
    assert second.stderr.count(b"time limit") == 1
    assert second.returncode == apart.returncode == 124
    assert apart.stderr.startswith(b"kernelagent: ")


def test_code_that_runs_as_a_job_is_followed(service: Service, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nprint('out', flush=True)\nsys.exit(6)")

    started = command(service, "run", "script.py", "--background", "--name", "my job", cwd=tmp_path)
    job_id = started.stdout.decode().removesuffix("\n")
    followed = command(service, "logs", "-f", job_id, cwd=tmp_path)

    assert re.fullmatch(r"proc_[0-9a-f]{20}", job_id)
    assert started.stderr.decode().endswith(f"kernelagent logs -f {job_id}\n")
    assert (followed.stdout, followed.returncode) == (b"out\n", 6)
    assert job_facts(service, job_id)["name"] == "my job"


@pytest.mark.parametrize(
    "options", [["--background", "--session", "x"], ["--name", "label"]], ids=["session", "name"]
)
def test_options_that_do_not_fit_are_refused(
    service: Service, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "script.py").write_text("1")

    assert command(service, "run", "script.py", *options, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("job_id", ["cmd_00000000000000000000", "nothing", "cmd_", ""])
def test_unknown_job_is_an_error(service: Service, tmp_path: Path, job_id: str) -> None:
    for arguments in (["logs", job_id], ["logs", "-f", job_id], ["jobs", job_id], ["kill", job_id]):
        done = command(service, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"no job has this id" in done.stderr
        assert b"Traceback" not in done.stderr


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


END = '{"type":"end","status":"completed","next_offset":4,"exit_code":0,"message":""}\n'


async def follow(answers: Answers, *, retry: float = 5) -> tuple[list[dict[str, Any]], int]:
    """The messages, and how many losses there were."""
    losses: list[Exception] = []
    async with ServiceClient("http://service.invalid", transport=answers) as client:
        follower = LogFollower(
            client, "x", offset=0, stream=None, follow=True, retry=retry, on_loss=losses.append
        )
        return [message async for message in follower.messages()], len(losses)


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


async def test_time_without_an_answer_is_limited() -> None:
    answers = Answers(*(httpx.ConnectError("refused") for _ in range(3)))

    with pytest.raises(ServiceUnreachable):
        await follow(answers, retry=0.7)

    # At once, after 0.2 s and after 0.4 s more.
    assert len(answers.offsets) == 3


def test_heavy_modules_wait_until_they_are_needed() -> None:
    script = (
        "import sys, kernelagent.cli\n"
        "print(sorted({'httpx', 'rich.table', 'rich.live'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )

    assert done.stdout == "[]\n"
