from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kernelagent.cli.connection import CommandFailed
from kernelagent.cli.jobs import Status
from kernelagent.cli.selection import choose
from kernelagent.cli.tables import ago, duration, one_line, plain, size
from kernelagent.client import ServiceClient, ServiceError
from kernelagent.jobs.job import JobStatus
from kernelagent.responses import utc_timestamp
from tests.cli.background import command, job_facts, start_command, wait_for_end
from tests.cli.service import KERNELAGENT, Service, clean_environment, serving, wait_until


def rows(printed: bytes) -> list[dict[str, str]]:
    """The lines of a plain table."""
    head, *lines = (line.split("\t") for line in printed.decode().removesuffix("\n").split("\n"))
    return [dict(zip(head, line, strict=True)) for line in lines]


def on_terminal(service: Service, *arguments: str, columns: int, until: bytes | None = None) -> str:
    """What a command draws on a terminal, until it ends or is interrupted."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*KERNELAGENT, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=clean_environment(**{**service.environment, "COLUMNS": str(columns)}),
    )
    os.close(theirs)
    drawn = b""
    try:
        while data := _read(ours):
            drawn += data
            if until is not None and drawn.count(until) >= 3:
                process.send_signal(2)
                until = None
        assert process.wait(30) in (0, 130)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return drawn.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # nobody has the other end any more
        return b""


def bare(drawn: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)


def test_list_in_a_pipe_is_plain(service: Service, tmp_path: Path) -> None:
    first = start_command(service, "echo a\tb; exit 3", name="one\ttwo")
    wait_for_end(service, first)
    second = start_command(service, "sleep 60", name="second \x1b[31m")

    done = command(service, "jobs", cwd=tmp_path)
    table = rows(done.stdout)
    service.request("POST", f"/jobs/{second}/kill")

    assert b"\x1b" not in done.stdout
    assert [table[0]["id"], table[1]["id"]] == [second, first]
    newest, older = table[0], table[1]
    assert newest["name"] == "second [31m"
    assert (newest["status"], newest["exit_code"]) == ("running", "")
    assert int(newest["pid"]) > 0
    assert (older["status"], older["exit_code"]) == ("failed", "3")
    assert (older["name"], older["language"]) == ("one two", "bash")
    assert older["command"] == "bash -c echo a b; exit 3"


def test_list_can_be_limited_and_chosen_from(service: Service, tmp_path: Path) -> None:
    ids = [start_command(service, f"exit {code}") for code in (0, 4, 0)]
    for job_id in ids:
        wait_for_end(service, job_id)

    limited = rows(command(service, "jobs", "--limit", "2", cwd=tmp_path).stdout)
    failed = rows(command(service, "jobs", "--status", "failed", cwd=tmp_path).stdout)
    unknown = command(service, "jobs", "--status", "odd", cwd=tmp_path)

    assert [row["id"] for row in limited] == [ids[2], ids[1]]
    assert failed[0]["id"] == ids[1]
    assert {row["status"] for row in failed} == {"failed"}
    assert unknown.returncode == 2


def test_statuses_are_those_of_the_service() -> None:
    assert [status.value for status in Status] == [status.value for status in JobStatus]


def test_json_is_the_server_s(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "echo é; exit 3")
    wait_for_end(service, job_id)

    listed = command(service, "jobs", "--json", "--limit", "1", cwd=tmp_path)
    one = command(service, "jobs", job_id, "--json", cwd=tmp_path)

    assert json.loads(listed.stdout) == service.request("GET", "/jobs?limit=1").json()
    assert json.loads(one.stdout) == job_facts(service, job_id)


def test_no_jobs_and_one_that_waits(tmp_path: Path) -> None:
    with serving(tmp_path, KERNELAGENT_JOB_COMMANDS="1") as service:
        none = command(service, "jobs", cwd=tmp_path)
        empty = on_terminal(service, "jobs", columns=100)
        start_command(service, "sleep 60")
        waiting = start_command(service, "echo never")
        table = rows(command(service, "jobs", cwd=tmp_path).stdout)
        page = command(service, "jobs", waiting, cwd=tmp_path).stdout.decode()
        drawn = bare(on_terminal(service, "jobs", columns=160))
        killed = command(service, "kill", waiting, cwd=tmp_path)
        followed = command(service, "logs", "-f", waiting, cwd=tmp_path)

    assert none.stdout.decode() == empty.replace("\r", "") == "There are no such jobs.\n"
    assert [row["status"] for row in table] == ["queued", "running"]
    assert (table[0]["started_at"], table[0]["pid"], table[0]["exit_code"]) == ("", "", "")
    assert "place in line\t1\n" in page
    assert "waits, place 1" in drawn
    assert killed.returncode == 0
    assert followed.returncode == 143
    assert "it had not begun" in followed.stderr.decode()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_table_fits_the_terminal(service: Service, columns: int) -> None:
    job_id = start_command(service, "echo " + "long " * 100, name="a name that is far too long")
    wait_for_end(service, job_id)

    drawn = on_terminal(service, "jobs", "--limit", "1", columns=columns)
    head, line, *rest = bare(drawn).replace("\r", "").splitlines()

    assert "\x1b[32mcompleted" in drawn
    assert line.startswith(job_id[:12])
    assert "s ago" in line
    assert "bash -c echo" in line
    assert line.rstrip().endswith("…")
    assert max(map(len, (head, line, *rest))) <= columns
    # The caption says that there are more.
    assert "the newest 1 of" in " ".join(" ".join(rest).split())
    if columns == 200:
        names = "id name status language started duration exit pid CPU % memory command"
        assert head.split() == names.split()


def test_watch_draws_again_until_it_is_interrupted(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "sleep 60")

    short = job_id[:12]
    drawn = bare(on_terminal(service, "jobs", "--watch", columns=120, until=short.encode()))
    service.request("POST", f"/jobs/{job_id}/kill")
    refused = command(service, "jobs", "--watch", cwd=tmp_path)

    assert drawn.count(short) >= 3
    assert "Traceback" not in drawn
    assert refused.returncode == 2
    assert b"--watch draws on a terminal" in refused.stderr


def test_page_tells_everything(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "echo out; echo err1 >&2; sleep 60", timeout=0.3)
    facts = wait_for_end(service, job_id)

    printed = command(service, "jobs", job_id, cwd=tmp_path).stdout.decode()
    page = dict(line.split("\t") for line in printed.splitlines())
    drawn = bare(on_terminal(service, "jobs", job_id, columns=200))

    assert page["id"] == job_id
    assert (page["status"], page["outcome"], page["exit code"]) == ("failed", "timeout", "124")
    assert page["message"] == facts["message"] != ""
    assert page["log"] == f"{facts['log']['bytes']} bytes: stdout 4, stderr {len(facts['stderr'])}"
    assert page["time limit"] == "0.30 s"
    assert page["ended"].startswith(facts["end_time"])
    for name, value in page.items():
        assert name in drawn
        assert re.sub(r"\(.*", "", value) in drawn


def test_page_tells_of_the_webhook(tmp_path: Path) -> None:
    with serving(tmp_path, KERNELAGENT_WEBHOOK_ALLOW="127.0.0.0/8") as service:
        body = {"code": "1", "callback_url": "http://127.0.0.1:9/hook"}
        job_id = service.request("POST", "/execute/async", json=body).json()["process_id"]
        wait_for_end(service, job_id)
        wait_until(lambda: job_facts(service, job_id)["webhook"]["attempts"])
        printed = command(service, "jobs", job_id, cwd=tmp_path).stdout.decode()
    page = dict(line.split("\t") for line in printed.splitlines())

    assert page["webhook"] == "pending"
    assert page["webhook url"] == "http://127.0.0.1:9/hook"
    assert int(page["webhook attempts"]) >= 1
    assert page["webhook error"]


def test_beginning_of_an_id_suffices(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "echo x")
    wait_for_end(service, job_id)
    unique = job_id.partition("_")[2]

    for text in (job_id, job_id[:14], unique, unique[:10], f"exec_{unique[:10]}"):
        done = command(service, "logs", text, cwd=tmp_path)
        assert (done.stdout, done.stderr) == (b"x\n", b""), text


def process(job_id: str, *, status: str = "completed", pid: int = 0) -> dict[str, Any]:
    execution_id = f"exec_{job_id.partition('_')[2]}"
    return {
        "process_id": job_id,
        "execution_id": execution_id,
        "name": "a name",
        "status": status,
        "pid": pid,
    }


def test_id_that_several_jobs_may_have_is_refused(service: Service, tmp_path: Path) -> None:
    # More than there are hexadecimal digits.
    ids = [start_command(service, "sleep 60") for _ in range(17)]
    digits = [job_id.partition("_")[2][0] for job_id in ids]
    digit = max(digits, key=digits.count)
    meant = [job_id for job_id in ids if job_id.startswith(f"cmd_{digit}")]

    done = command(service, "kill", digit, cwd=tmp_path)
    statuses = {job_facts(service, job_id)["status"] for job_id in ids}
    ended = command(service, "kill", *ids, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (1, b"")
    assert f"{digit} may be one of " in done.stderr.decode()
    assert all(job_id in done.stderr.decode() for job_id in meant)
    assert statuses == {"running"}
    assert ended.returncode == 0


def test_choice_of_a_job() -> None:
    jobs = [
        process("cmd_12ab", status="running", pid=77),
        process("proc_12cd", pid=77),
        process("exec_77ef"),
    ]

    assert choose(jobs, "12a") == choose(jobs, "cmd_12") == "cmd_12ab"
    assert choose(jobs, "exec_12c") == choose(jobs, "proc_1") == "proc_12cd"
    assert choose(jobs, "exec_7") == choose(jobs, "77e") == "exec_77ef"
    # A process of its own, or the beginning of an id.
    with pytest.raises(
        CommandFailed, match=r"77 may be one of 2 jobs:\n  cmd_12ab .*\n  exec_77ef"
    ):
        choose(jobs, "77")
    for text in ("", "cmd_", "cmd", "cmd_12c", "9"):
        with pytest.raises(CommandFailed, match="no job has this id"):
            choose(jobs, text)
    with pytest.raises(CommandFailed, match="and 5 more"):
        choose([process(f"cmd_{number:03}") for number in range(25)], "0")


def test_kill_tells_what_each_has_become(service: Service, tmp_path: Path) -> None:
    running = start_command(service, "echo going; sleep 60")
    done = start_command(service, "exit 0")
    wait_for_end(service, done)
    unknown = "cmd_00000000000000000000"

    killed = command(service, "kill", unknown, running[:16], done, cwd=tmp_path)
    again = command(service, "kill", running, done, cwd=tmp_path)

    assert killed.returncode == 1
    # Each as soon as it is known.
    assert set(killed.stdout.decode().splitlines()) == {
        f"{running}: the job has ended: killed",
        f"{done}: the job had ended before: completed",
    }
    assert killed.stderr.decode() == f"kernelagent: no job has this id: {unknown}\n"
    assert job_facts(service, running)["status"] == "killed"
    assert again.returncode == 0


def test_times_and_sizes_as_people_say_them() -> None:
    def before(**time: float) -> str:
        return utc_timestamp(datetime.now(UTC) - timedelta(**time))

    assert ago(before(seconds=5.5)) == "5 s ago"
    assert ago(before(minutes=3.5)) == "3 min ago"
    assert ago(before(hours=25)) == "1 d ago"
    assert ago(before(hours=-1)) == "0 s ago"
    assert [duration(0.0142), duration(59.2), duration(61)] == ["0.01 s", "59 s", "1 min 1 s"]
    assert [duration(3600), duration(9000)] == ["1 h", "2 h 30 min"]
    assert [size(900), size(2048), size(3 * 2**30)] == ["900 B", "2 KiB", "3.0 GiB"]
    assert one_line(" a\tb\n\x1b[31m\u202ec ") == "a b [31m c"
    assert plain({"jobs": [], "total": 0}) == "There are no such jobs."


async def test_client_starts_lists_follows_and_kills(service: Service) -> None:
    async with ServiceClient(service.url, token=service.token) as client:
        started = await client.start_background(
            "print('x', flush=True)\nimport time; time.sleep(60)", name="of a client", timeout=50
        )
        job_id = started["process_id"]
        kinds = []
        async for message in client.job_log(job_id, follow=True):
            kinds.append(message["type"])
            if message.get("data") == "x\n":
                assert (await client.kill_job(job_id))["status"] == "killed"
        listed = await client.jobs(status="killed", limit=1)
        facts = await client.job(job_id)
        tail = [message async for message in client.job_log(job_id, tail=3, stream="stdout")]
        with pytest.raises(ServiceError) as caught:
            await client.job("../x")

    assert (kinds[0], kinds[-1], kinds.count("end")) == ("log", "end", 1)
    assert [job["id"] for job in listed["jobs"]] == [job_id]
    assert (facts["name"], facts["timeout"]) == ("of a client", 50)
    assert tail[-1]["type"] == "end"
    assert caught.value.status == 404
