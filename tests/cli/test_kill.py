"""Which job an id means, and what becomes of jobs that are ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernelagent.cli.connection import CommandFailed
from kernelagent.cli.selection import choose
from tests.cli.jobs import command, job_facts, start_command, wait_for_end
from tests.servers import Service


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
