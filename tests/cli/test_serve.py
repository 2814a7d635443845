"""How the service starts, what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.command_line import fresh_kernelagent
from tests.servers import WITHOUT_KERNELS, Server, serving
from tests.waiting import PATIENCE, wait_until

# As users start it; a warning is a fault too.
AS_USERS_DO: dict[str, Any] = {
    "secret": None,
    "python": (sys.executable, "-W", "default"),
    "KERNELAGENT_LOG_LEVEL": "info",
}
BARE = {**AS_USERS_DO, **WITHOUT_KERNELS}


def test_first_start_prints_url_and_token_once(tmp_path: Path) -> None:
    with serving(tmp_path, **BARE) as service:
        assert service.token
        assert service.request("GET", "/sessions").status_code == 200
        assert httpx.get(f"{service.url}/sessions", trust_env=False).status_code == 401
        assert service.stdout.count(service.url) == service.stdout.count("token: ") == 1
        assert service.token not in service.stderr
    with serving(tmp_path, **BARE) as again:
        assert not again.token
    with serving(tmp_path, "--print-token", **BARE) as asked:
        assert asked.token


def test_a_configured_secret_is_not_answered_with_a_token(tmp_path: Path) -> None:
    with serving(tmp_path, KERNELAGENT_JWT_SECRET="0123456789abcdef" * 2, **BARE) as service:
        assert not service.token
    assert not (tmp_path / "state" / "jwt-secret").exists()


def test_no_auth_serves_without_a_token(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-auth", **BARE) as service:
        assert not service.token
        assert httpx.get(f"{service.url}/sessions", trust_env=False).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_and_its_kernels(tmp_path: Path, number: signal.Signals) -> None:
    # The kernel is one of the pool, and a fork of another process.
    settings = {**AS_USERS_DO, "KERNELAGENT_POOL_IDLE": "1", "KERNELAGENT_PRELOAD": ""}
    with serving(tmp_path, **settings) as service:
        ran = service.request("POST", "/execute", json={"code": "import os; print(os.getpid())"})
        kernel = int(ran.json()["stdout"])

        assert service.stop(number) == 0

        assert not psutil.pid_exists(kernel)
        assert "Traceback" not in service.stderr
        assert "Warning" not in service.stderr


def test_signal_ends_a_run_and_its_client_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-auth", **BARE) as ending:
        body = {"code": "print('going', flush=True)\nimport time\ntime.sleep(600)"}
        with httpx.stream(
            "POST",
            f"{ending.url}/execute",
            json=body,
            headers={"Accept": "application/x-ndjson"},
            timeout=PATIENCE,
            trust_env=False,
        ) as stream:
            # Kept: the stream is closed with the iterator, and the run would end with its client.
            lines = stream.iter_lines()
            assert any("going" in line for line in lines)
            ending.process.terminate()
            messages = [json.loads(line) for line in lines]
        assert messages[-2]["outcome"] == "cancelled"
        assert messages[-1]["type"] == "complete"
        assert ending.process.wait(PATIENCE) == 0
        assert "Traceback" not in ending.stderr


def test_answers_do_not_name_the_server(service: Server) -> None:
    response = service.request("GET", "/health")

    assert response.json()["status"] == "healthy"
    assert "server" not in response.headers


def test_log_lines_are_json_without_tokens(service: Server) -> None:
    service.request("GET", "/sessions")
    wait_until(lambda: '"/sessions"' in service.stderr)

    # What is being written is no line yet.
    lines = [json.loads(line) for line in service.stderr.rpartition("\n")[0].splitlines()]

    assert any(line.get("path") == "/sessions" for line in lines)
    assert service.token
    assert service.token not in service.stderr


def test_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        state = str(tmp_path / "state")
        done = fresh_kernelagent("serve", "--port", str(port), "--state-dir", state, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"kernelagent: port {port} on 127.0.0.1 is taken")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", "0.0.0.0", "--no-auth"], "--no-auth is refused on 0.0.0.0"),  # noqa: S104
        (["--port", "99999"], "KERNELAGENT_PORT"),
        (["--log-level", "loud"], "KERNELAGENT_LOG_LEVEL"),
    ],
)
def test_configuration_error_is_one_line_and_exit_code_2(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    state = str(tmp_path / "state")
    done = fresh_kernelagent("serve", "--state-dir", state, *options, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kernelagent: {reason}")
    assert done.stderr.count("\n") == 1


def test_workspace_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state, workspace = str(tmp_path / "state"), str(tmp_path / "file" / "workspace")

    done = fresh_kernelagent(
        *("serve", "--port", "0", "--state-dir", state, "--workspace", workspace),
        cwd=tmp_path,
    )

    assert done.returncode == 1
    assert "kernelagent: the service cannot start" in done.stderr
    assert "Traceback" not in done.stderr
