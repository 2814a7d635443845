"""Jobs for tests of the command line, and the commands that show them."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from kernelagent.auth.secret import SECRET_FILE
from tests.command_line import start
from tests.servers import Service
from tests.waiting import wait_until

# Every client makes its own TLS context otherwise, which takes longer than an answer.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def start_command(service: Service, script: str, **fields: Any) -> str:
    """Start a bash script as a job; its id."""
    body = {"command": "bash", "args": ["-c", script], **fields}
    answer = service.request("POST", "/commands/background", json=body, verify=_TLS)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["process_id"])


def job_facts(service: Service, job_id: str) -> dict[str, Any]:
    """All that the service knows of a job."""
    facts: dict[str, Any] = service.request("GET", f"/jobs/{job_id}", verify=_TLS).json()
    return facts


def wait_for_process(service: Service, job_id: str) -> None:
    """Wait until a job runs."""
    wait_until(lambda: job_facts(service, job_id)["pid"])


def wait_for_end(service: Service, job_id: str) -> dict[str, Any]:
    """Wait until a job has ended; all that is known of it."""
    wait_until(lambda: job_facts(service, job_id)["status"] not in ("queued", "running"))
    return job_facts(service, job_id)


def environment_of(service: Service) -> dict[str, str]:
    """Variables with which commands find a service, and its key or a token."""
    if (service.state / SECRET_FILE).exists():
        return service.environment
    return {**service.environment, "KERNELAGENT_TOKEN": service.token}


def command(
    service: Service, *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the command line to its end, with its output as bytes."""
    with start(*arguments, cwd=cwd, **{**environment_of(service), **environment}) as running:
        out, err = running.finish()
        return subprocess.CompletedProcess(arguments, running.wait(), out, err)


def read_terminal(terminal: BinaryIO) -> bytes:
    """What is drawn next; nothing once all have left the terminal."""
    try:
        return terminal.read(65536)
    except OSError:
        return b""
