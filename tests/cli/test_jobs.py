"""Lists of jobs, and pages that tell everything about one."""

from __future__ import annotations

import json
import re
import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kernelagent.cli.tables import ago, duration, one_line, plain, size
from kernelagent.text import utc_timestamp
from tests.cli.jobs import (
    command,
    environment_of,
    job_facts,
    read_terminal,
    start_command,
    wait_for_end,
    wait_for_process,
)
from tests.command_line import start_on_terminal
from tests.servers import Service, serving_in_process
from tests.waiting import wait_until


def rows(printed: bytes) -> list[dict[str, str]]:
    """The lines of a plain table."""
    head, *lines = (line.split("\t") for line in printed.decode().removesuffix("\n").split("\n"))
    return [dict(zip(head, line, strict=True)) for line in lines]


def on_terminal(service: Service, *arguments: str, columns: int, until: bytes | None = None) -> str:
    """What a command draws on a terminal, until it ends or has drawn `until` three times."""
    environment = {**environment_of(service), "COLUMNS": str(columns)}
    drawn = b""
    with start_on_terminal(*arguments, cwd=service.directory, **environment) as running:
        while data := read_terminal(running.stdout):
            drawn += data
            if until is not None and drawn.count(until) >= 3:
                running.send_signal(signal.SIGINT)
                until = None
        assert running.wait() in (0, 130)
    return drawn.decode()


def bare(drawn: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)


def test_list_in_a_pipe_is_plain(service: Service, tmp_path: Path) -> None:
    first = start_command(service, "echo a\tb; exit 3", name="one\ttwo")
    wait_for_end(service, first)
    second = start_command(service, "sleep 60", name="second \x1b[31m")
    wait_for_process(service, second)

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


def test_json_is_the_server_s(service: Service, tmp_path: Path) -> None:
    job_id = start_command(service, "echo é; exit 3")
    wait_for_end(service, job_id)

    listed = command(service, "jobs", "--json", "--limit", "1", cwd=tmp_path)
    one = command(service, "jobs", job_id, "--json", cwd=tmp_path)

    assert json.loads(listed.stdout) == service.request("GET", "/jobs?limit=1").json()
    assert json.loads(one.stdout) == job_facts(service, job_id)


def test_no_jobs_and_one_that_waits(tmp_path: Path) -> None:
    with serving_in_process(tmp_path, job_commands=1, pool_idle=0, fork_server=False) as service:
        none = command(service, "jobs", cwd=tmp_path)
        empty = on_terminal(service, "jobs", columns=100)
        wait_for_process(service, start_command(service, "sleep 60"))
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
    with (
        serving_in_process(
            tmp_path, webhook_allow="127.0.0.0/8", pool_idle=0, fork_server=False
        ) as service,
        # Bound and not listening: whoever connects is refused.
        socket.socket() as nobody,
    ):
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/hook"
        body = {"code": "1", "callback_url": url}
        job_id = service.request("POST", "/execute/async", json=body).json()["process_id"]
        wait_for_end(service, job_id)
        wait_until(lambda: job_facts(service, job_id)["webhook"]["last_error"])
        printed = command(service, "jobs", job_id, cwd=tmp_path).stdout.decode()
    page = dict(line.split("\t") for line in printed.splitlines())

    assert page["webhook"] == "pending"
    assert page["webhook url"] == url
    assert int(page["webhook attempts"]) >= 1
    assert page["webhook error"]


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
