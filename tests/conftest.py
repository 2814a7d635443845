"""Fixtures for all tests: settings in a temporary place, a real server process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernelagent.settings import Settings, load_settings

SECRET = "tests-only-secret-of-more-than-32-bytes"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that the service runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A short path: pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="ka-test-") as directory:
        yield Path(directory)


@pytest.fixture
def settings(tmp_path: Path, runtime_dir: Path) -> Settings:
    """Settings that touch nothing outside the test."""
    return load_settings(
        workspace=tmp_path / "workspace",
        state_dir=tmp_path / "state",
        runtime_dir=runtime_dir,
        jwt_secret=SECRET,
    )


@dataclass(frozen=True)
class Server:
    """A server process and how to reach it."""

    url: str
    token: str
    workspace: Path
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client with a good token."""
        options.setdefault("timeout", 60)
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, **options)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    workspace: Path,
    state_dir: Path,
    *,
    python: Sequence[str] = (sys.executable,),
    **environment: str,
) -> Server:
    """A server that answers, run by the command `python`; `stop_server` is owed."""
    from kernelagent.auth import Authenticator

    options = load_settings(workspace=workspace, state_dir=state_dir, jwt_secret=SECRET)
    token, _ = Authenticator.from_settings(options).issue()
    port = free_port()
    env = {
        **os.environ,
        "KERNELAGENT_JWT_SECRET": SECRET,
        "KERNELAGENT_WORKSPACE": str(workspace),
        "KERNELAGENT_STATE_DIR": str(state_dir),
        "KERNELAGENT_LOG_LEVEL": "warning",
        **environment,
    }
    process = subprocess.Popen(
        [*python, "-m", "kernelagent", "serve", "--port", str(port)], env=env
    )
    server = Server(f"http://127.0.0.1:{port}", token, workspace, process)
    try:
        _wait_until_healthy(server)
    except BaseException:
        stop_server(server)
        raise
    return server


def stop_server(server: Server) -> int:
    """Ask the server to leave, and see that it does; its exit code."""
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(30)
    finally:
        server.process.kill()
        server.process.wait()


def _wait_until_healthy(server: Server) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _write_missing_language(root: Path) -> Path:
    """A folder for Jupyter with the kernelspec of `algol`, whose program is not there."""
    folder = root / "jupyter" / "kernels" / "algol"
    folder.mkdir(parents=True)
    spec = {"argv": ["/no/such/algol"], "language": "algol", "display_name": "Algol"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return root / "jupyter"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One real server process for all tests that leave it as it was."""
    root = tmp_path_factory.mktemp("server")
    running = start_server(
        root / "workspace",
        root / "state",
        KERNELAGENT_POOL_IDLE="2",
        JUPYTER_PATH=str(_write_missing_language(root)),
    )
    try:
        yield running
    finally:
        stop_server(running)
