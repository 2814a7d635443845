"""The servers that are measured, each a process of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.clients import HttpClient
from bench.samples import PeerFailed
from kernelagent.auth.tokens import Authenticator

_ROOT = Path(__file__).resolve().parent.parent
_START_TIMEOUT = 120.0
_LOG = "log.txt"


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that answers; `home` holds every file it makes."""

    port: int
    token: str | None
    process: subprocess.Popen[bytes]
    home: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self) -> HttpClient:
        """A new connection."""
        return HttpClient(self.port, self.token)


@contextlib.contextmanager
def our_server(*, pool: int = 1, **changes: str) -> Iterator[Server]:
    """Our service as a user would start it, authentication included, with its pool filled."""
    secret = secrets.token_hex(32)
    token, _ = Authenticator(sandbox_id="local", secret=secret.encode()).issue()
    with temporary_home() as home:
        port = _free_port()
        settings = {
            "KERNELAGENT_JWT_SECRET": secret,
            "KERNELAGENT_WORKSPACE": str(home / "workspace"),
            "KERNELAGENT_STATE_DIR": str(home / "state"),
            "KERNELAGENT_RUNTIME_DIR": str(home / "run"),
            "KERNELAGENT_POOL_IDLE": str(pool),
            "KERNELAGENT_LOG_LEVEL": "warning",
            **changes,
        }
        argv = [sys.executable, "-m", "kernelagent", "serve", "--port", str(port)]
        with _running(argv, home, settings) as process:
            server = Server(port, token, process, home)
            _wait_until_answering(server, "/health", RuntimeError)
            client = server.client()
            wait_for_pool(client, pool)
            client.close()
            yield server


@contextlib.contextmanager
def naive_server() -> Iterator[Server]:
    """The naive application under uvicorn, with its one kernel started."""
    with temporary_home() as home:
        port = _free_port()
        argv = [sys.executable, "-m", "uvicorn", "bench.naive_app:app", "--port", str(port)]
        argv += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
        with _running([*argv, "--no-access-log"], home, {}) as process:
            server = Server(port, None, process, home)
            _wait_until_answering(server, "/health")
            yield server


@contextlib.contextmanager
def plain_server() -> Iterator[Server]:
    """The plain application under uvicorn, for what has no kernel."""
    with temporary_home() as home:
        port = _free_port()
        argv = [sys.executable, "-m", "uvicorn", "bench.plain_app:app", "--port", str(port)]
        argv += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
        with _running([*argv, "--no-access-log"], home, {}) as process:
            server = Server(port, None, process, home)
            _wait_until_answering(server, "/health")
            yield server


@contextlib.contextmanager
def gateway_server(*options: str) -> Iterator[Server]:
    """A Jupyter kernel gateway as it comes; only its address is given, and `options`."""
    with temporary_home() as home:
        port = _free_port()
        argv = [sys.executable, "-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1"]
        argv += [f"--KernelGatewayApp.port={port}", "--KernelGatewayApp.port_retries=0"]
        argv += ["--Application.log_level=ERROR", *options]
        with _running(argv, home, {}) as process:
            server = Server(port, None, process, home)
            _wait_until_answering(server, "/api")
            yield server


def server_facts(server: Server) -> dict[str, Any]:
    """What our server's /health tells, over a connection of its own that is closed again."""
    client = server.client()
    try:
        facts: dict[str, Any] = client.request("GET", "/health")
        return facts
    finally:
        client.close()


def wait_for_pool(client: HttpClient, wanted: int) -> None:
    """Wait until our server has `wanted` idle kernels and starts none."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        pool = client.request("GET", "/health")["pools"]["python"]
        if pool["idle"] >= wanted and pool["starting"] == 0:
            return
        if pool["error"]:
            raise RuntimeError(f"no kernel starts: {pool['error']}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the pool was not filled: {pool}")
        time.sleep(0.05)


def clean_environment(home: Path) -> dict[str, str]:
    """Our environment without what its user has configured for Jupyter or for us."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KERNELAGENT_")}
    return env | {
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        # Warnings of other people's software are not our subject.
        "PYTHONWARNINGS": "ignore",
    }


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A directory for the files of one server."""
    with tempfile.TemporaryDirectory(prefix="ka-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _running(
    argv: list[str], home: Path, settings: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    env = {**clean_environment(home), **settings}
    with (home / _LOG).open("wb") as log:
        process = subprocess.Popen(
            argv, env=env, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _wait_until_answering(server: Server, path: str, failure: type[Exception] = PeerFailed) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            client = server.client()
        except OSError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                said = (server.home / _LOG).read_text(errors="replace")[-2000:]
                raise failure(f"a server did not start: {said}") from None
            time.sleep(0.05)
            continue
        client.request("GET", path)
        client.close()
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
