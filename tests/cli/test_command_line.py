"""That commands which start warm are as those which start fresh."""

from __future__ import annotations

import re
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.cli.jobs import read_terminal, start_command, wait_for_end
from tests.command_line import KERNELAGENT, fresh_kernelagent, kernelagent
from tests.servers import Server, clean_environment

BOTH = "import sys, time\nprint('out')\nprint('err', file=sys.stderr)\ninput()\nsys.exit(7)"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        ([], "", 2),
        (["run", "--help"], "", 0),
        (["run", "absent.py"], "", 2),
        (["jobs", "--limit", "1"], "", 0),
        (["jobs", "--limit", "1", "--json"], "", 0),
        (["run", "program.py"], "input\n", 7),
        (["logs", "unknown"], "", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_both_print_the_same(
    service: Server, tmp_path: Path, arguments: list[str], stdin: str, code: int
) -> None:
    wait_for_end(service, start_command(service, "echo é"))
    (tmp_path / "program.py").write_text(BOTH)

    warm, fresh = (
        run(*arguments, cwd=tmp_path, stdin=stdin, **service.environment)
        for run in (kernelagent, fresh_kernelagent)
    )

    assert (warm.stdout, warm.stderr) == (fresh.stdout, fresh.stderr)
    assert warm.returncode == fresh.returncode == code
    assert warm.stdout + warm.stderr


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"COLUMNS": "60"}], ids=str)
def test_both_see_their_terminal(service: Server, environment: dict[str, str]) -> None:
    wait_for_end(service, start_command(service, "exit 3"))
    drawn = []
    for fresh in (False, True):
        with KERNELAGENT.start(
            *("jobs", "--limit", "1"),
            cwd=service.directory,
            terminal=True,
            fresh=fresh,
            environment=clean_environment(**{**service.environment, **environment}),
        ) as running:
            text = b"".join(iter(partial(read_terminal, running.stdout), b""))
        drawn.append(re.sub(rb"\d+ s ago", b"just now", text))

    assert drawn[0] == drawn[1]
    assert bool(re.search(rb"\x1b\[[0-9;]*31mfailed", drawn[0])) is ("NO_COLOR" not in environment)


@pytest.mark.parametrize("fresh", [False, True], ids=["warm", "fresh"])
def test_a_signal_ends_either(service: Server, tmp_path: Path, fresh: bool) -> None:
    job_id = start_command(service, "echo going; sleep 60")
    with KERNELAGENT.start(
        *("logs", "-f", job_id),
        cwd=tmp_path,
        fresh=fresh,
        environment=clean_environment(**service.environment),
    ) as running:
        assert running.stdout.readline() == b"going\n"
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    service.request("POST", f"/jobs/{job_id}/kill")
