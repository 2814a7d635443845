"""Jobs for tests of the command line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.cli.service import KERNELAGENT, Service, clean_environment, wait_until


def start_command(service: Service, script: str, **fields: Any) -> str:
    """Start a bash script as a job; its id."""
    body = {"command": "bash", "args": ["-c", script], **fields}
    answer = service.request("POST", "/commands/background", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["process_id"])


def job_facts(service: Service, job_id: str) -> dict[str, Any]:
    """All that the service knows of a job."""
    facts: dict[str, Any] = service.request("GET", f"/jobs/{job_id}").json()
    return facts


def wait_for_end(service: Service, job_id: str) -> dict[str, Any]:
    """Wait until a job has ended; all that is known of it."""
    wait_until(lambda: job_facts(service, job_id)["status"] not in ("queued", "running"))
    return job_facts(service, job_id)


def command(
    service: Service, *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the command line to its end, with its output as bytes."""
    return subprocess.run(
        [*KERNELAGENT, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        env=clean_environment(**{**service.environment, **environment}),
        timeout=60,
        check=False,
    )


def start(
    service: Service, *arguments: str, cwd: Path, **environment: str
) -> subprocess.Popen[bytes]:
    """Start a command of the command line."""
    return subprocess.Popen(
        [*KERNELAGENT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=clean_environment(**{**service.environment, **environment}),
    )
