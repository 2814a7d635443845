"""What `kernelagent logs` prints of jobs, byte for byte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.jobs import command, job_facts, start_command, wait_for_end
from tests.servers import Service, serving_in_process
from tests.waiting import wait_until


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
    with serving_in_process(
        tmp_path, job_log_bytes=65536, pool_idle=0, fork_server=False
    ) as service:
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


def test_heavy_modules_wait_until_they_are_needed() -> None:
    script = (
        "import sys, kernelagent.cli\n"
        "print(sorted({'httpx', 'rich.table', 'rich.live'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )

    assert done.stdout == "[]\n"
