"""A real service and the real command line, as processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

KERNELAGENT = [sys.executable, "-m", "kernelagent"]
PATIENCE = 60.0


@dataclass(frozen=True)
class Service:
    """A running `kernelagent serve`."""

    url: str
    token: str | None
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def stdout(self) -> str:
        return (self.directory / "serve.out").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "serve.err").read_text()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which commands find this service and its key."""
        return {"KERNELAGENT_URL": self.url, "KERNELAGENT_STATE_DIR": str(self.directory / "state")}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.url}{path}"
        return httpx.request(method, url, headers=headers, timeout=30, trust_env=False, **options)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without our settings, and a terminal of a known kind."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KERNELAGENT_", "FORCE_", "TERM_PROGRAM", "KITTY"))
    }
    return {**kept, "COLUMNS": "200", "TERM": "xterm", **extra}


@contextlib.contextmanager
def serving(directory: Path, *options: str, **environment: str) -> Iterator[Service]:
    """A service with its workspace and state below `directory`, ended in any case."""
    out, err = directory / "serve.out", directory / "serve.err"
    command = [sys.executable, "-W", "default", "-m", "kernelagent", "serve", "--port", "0"]
    places = ["--workspace", str(directory / "workspace"), "--state-dir", str(directory / "state")]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *places, *options],
            stdout=stdout,
            stderr=stderr,
            env=clean_environment(**environment),
        )
    try:
        wait_until(lambda: process.poll() is not None or " listens on " in out.read_text())
        assert process.poll() is None, err.read_text()
        printed = out.read_text()
        url = re.search(r"listens on (\S+)", printed)
        token = re.search(r"^token: (\S+)$", printed, re.MULTILINE)
        assert url is not None
        yield Service(url[1], token[1] if token else None, directory, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def kernelagent(
    *arguments: str, cwd: Path, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; without `stdin` its input is empty."""
    return subprocess.run(
        [*KERNELAGENT, *arguments],
        input=stdin or "",
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean_environment(**environment),
        timeout=PATIENCE,
        check=False,
    )


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for `condition`; fails after a minute."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
