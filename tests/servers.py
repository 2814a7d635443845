"""Real servers, started and ended in one way: as a process, or in a thread of this one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from kernelagent.app import create_app
from kernelagent.auth.tokens import Authenticator
from kernelagent.cli.server import Server as UvicornServer
from kernelagent.cli.server import listen, url_of
from kernelagent.settings import load_settings
from tests.waiting import PATIENCE, wait_until

SECRET = "tests-only-secret-of-more-than-32-bytes"

# For servers whose kernels are not used, or too few to be worth a fork server that has imported
# numpy, pandas and matplotlib.
WITHOUT_KERNELS: dict[str, Any] = {"KERNELAGENT_POOL_IDLE": "0", "KERNELAGENT_FORK_SERVER": "false"}


@dataclass(frozen=True)
class Service:
    """Where a server is and how to ask it; its files are below `directory`."""

    url: str
    # Empty if the server asks for none, or has printed none.
    token: str
    directory: Path
    state: Path

    @property
    def workspace(self) -> Path:
        return self.directory / "workspace"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the command line finds this server and its key."""
        return {"KERNELAGENT_URL": self.url, "KERNELAGENT_STATE_DIR": str(self.state)}

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client with a good token."""
        options.setdefault("timeout", PATIENCE)
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer to one request with a good token."""
        options.setdefault("timeout", PATIENCE)
        url = f"{self.url}{path}"
        return httpx.request(method, url, headers=self.headers, trust_env=False, **options)


@dataclass(frozen=True)
class Server(Service):
    """A server that is a process of its own."""

    process: subprocess.Popen[bytes]

    @property
    def stdout(self) -> str:
        return (self.directory / "serve.out").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "serve.err").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the process to leave, see that it does, return its exit code. May be repeated."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without our settings, and a terminal of a known kind."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KERNELAGENT_", "FORCE_", "TERM_PROGRAM", "KITTY"))
    }
    return {**kept, "COLUMNS": "200", "TERM": "xterm", **extra}


def start_server(
    directory: Path,
    *options: str,
    python: Sequence[str] = (sys.executable,),
    secret: str | None = SECRET,
    state_dir: Path | None = None,
    **environment: Any,
) -> Server:
    """Start a server below `directory` with settings in its environment; `stop` must be called.

    Without `secret` it makes its own key, and its token is the one that it prints. `python` is the
    command that runs it.
    """
    settings = {"KERNELAGENT_LOG_LEVEL": "warning"}
    if secret is not None:
        settings["KERNELAGENT_JWT_SECRET"] = secret
    directory.mkdir(parents=True, exist_ok=True)
    out, err = directory / "serve.out", directory / "serve.err"
    state_dir = state_dir or directory / "state"
    places = ["--workspace", str(directory / "workspace"), "--state-dir", str(state_dir)]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [*python, "-m", "kernelagent", "serve", "--port", "0", *places, *options],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=clean_environment(**{**settings, **environment}),
        )
    try:
        wait_until(lambda: process.poll() is not None or " listens on " in out.read_text())
        assert process.poll() is None, err.read_text()
        url = re.search(r"listens on (\S+)\n", out.read_text())
        assert url is not None
        token = _issue(secret) if secret is not None else _printed_token(out)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Server(url[1], token, directory, state_dir, process)


@contextlib.contextmanager
def serving(directory: Path, *options: str, **settings: Any) -> Iterator[Server]:
    """A server as `start_server` makes it, ended in any case."""
    server = start_server(directory, *options, **settings)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serving_in_process(directory: Path, **settings: Any) -> Iterator[Service]:
    """A server in a thread of this process, for limits and other settings: it starts at once."""
    with tempfile.TemporaryDirectory(prefix="ka-test-") as runtime_dir:
        options = load_settings(
            workspace=directory / "workspace",
            state_dir=directory / "state",
            runtime_dir=Path(runtime_dir),
            jwt_secret=SECRET,
            **settings,
        )
        started = threading.Event()
        with listen("127.0.0.1", 0) as listener:
            server = UvicornServer(create_app(options), started.set)
            # Not its own `run`: that sets signal handlers, which is the main thread's.
            thread = threading.Thread(target=uvicorn.Server.run, args=(server, [listener]))
            thread.start()
            try:
                wait_until(lambda: started.is_set() or not thread.is_alive())
                assert started.is_set()
                url = url_of("127.0.0.1", listener)
                yield Service(url, _issue(SECRET), directory, directory / "state")
            finally:
                server.should_exit = True
                thread.join()


def _issue(secret: str) -> str:
    return Authenticator.from_settings(load_settings(jwt_secret=secret)).issue()[0]


def _printed_token(out: Path) -> str:
    """Empty after the first start, and where no token is needed."""
    printed = re.search(r"^token: (\S+)$", out.read_text(), re.MULTILINE)
    return printed[1] if printed else ""
