"""The published hopx command line, unmodified, against a real server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.programs import Program
from tests.servers import Server
from tests.waiting import wait_until

_SHIM = Path(__file__).parent / "shim"


class CommandLine:
    """Runs `hopx`; `home` is where it keeps what it keeps."""

    def __init__(self, url: str, home: Path, server: Server) -> None:
        self.home = home
        self.server = server
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HOPX_API_KEY": "any",
            "HOPX_BASE_URL": url,
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            # `run` and `system` know no other host.
            "PYTHONPATH": str(_SHIM),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        # Its modules read the environment as they are imported, so it is the same for all commands.
        self._hopx = Program(
            [str(Path(sys.executable).with_name("hopx"))],
            "hopx_cli.main:app",
            ["httpcore", "h11", "anyio", "certifi"],
            environment=self._environment,
        )

    def run(self, *args: str, ok: bool = True) -> str:
        """What it prints; the test fails if it fails."""
        with self._hopx.start(*args, cwd=self.home, environment=self._environment) as running:
            out, err = running.finish()
            assert (running.wait() == 0) is ok, (out, err)
        return out.decode()

    def json(self, *args: str) -> Any:
        """What it prints as JSON, after its words on progress."""
        printed = self.run("-o", "json", *args)
        return json.loads(printed[printed.index("\n{") :])

    def directory(self) -> Path:
        """What `/workspace` is, which it always sends."""
        real = Path("/workspace")
        return real if real.exists() else self.server.workspace


@pytest.fixture(scope="module")
def hopx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    pytest.importorskip("hopx_cli", reason="the hopx command line is not installed")
    with control_plane(server) as url:
        yield CommandLine(url, tmp_path_factory.mktemp("hopx"), server)


def test_commands(hopx: CommandLine) -> None:
    answer = hopx.json("cmd", "run", SANDBOX_ID, "echo $X; pwd; echo err >&2", "-e", "X=a b")
    workspace = hopx.directory()
    assert (answer["stdout"], answer["stderr"]) == (f"a b\n{workspace}\n", "err\n")
    assert answer["success"] is True
    # The client joins them by blanks, quoting none.
    answer = hopx.json("cmd", "exec", SANDBOX_ID, "printf", "%s-", "two words")
    assert answer["stdout"] == "two-words-"


def test_variables(hopx: CommandLine) -> None:
    file = hopx.home / "variables"
    file.write_text("FROM_FILE=yes\n")
    hopx.run("env", "set", SANDBOX_ID, "CLI_A", "1")
    hopx.run("env", "load", SANDBOX_ID, "--file", str(file))
    try:
        listed = hopx.run("env", "list", SANDBOX_ID, "--no-mask")
        assert "CLI_A" in listed
        assert "FROM_FILE" in listed
        assert "yes" in hopx.run("env", "get", SANDBOX_ID, "FROM_FILE", "--no-mask")
        answer = hopx.json("cmd", "run", SANDBOX_ID, "echo $CLI_A$FROM_FILE")
        assert answer["stdout"] == "1yes\n"
    finally:
        hopx.run("env", "delete", SANDBOX_ID, "CLI_A", "--force")
        hopx.run("env", "delete", SANDBOX_ID, "FROM_FILE", "--force")
    assert "CLI_A" not in hopx.run("env", "list", SANDBOX_ID, "--no-mask")


def test_code(hopx: CommandLine) -> None:
    assert "42" in hopx.run("run", "-s", SANDBOX_ID, "print(6 * 7)")
    assert "in bash" in hopx.run("run", "-s", SANDBOX_ID, "-l", "bash", "echo in bash")
    # In a sandbox of its own, ended afterwards.
    assert "own" in hopx.run("run", "print('own')")


def test_background(hopx: CommandLine) -> None:
    started = hopx.run("run", "-s", SANDBOX_ID, "-b", "import time; time.sleep(60)")
    assert "cmd_" in started
    listed = hopx.run("run", "x", "ps", "-s", SANDBOX_ID)
    assert "python" in listed
    (pid,) = wait_until(lambda: _running(hopx.server))
    hopx.run("run", "x", "kill", str(pid), "-s", SANDBOX_ID)
    wait_until(lambda: not _running(hopx.server))


def _running(server: Server) -> list[int]:
    """The process ids of the jobs that run."""
    answer = server.request("GET", "/execute/processes")
    return [item["pid"] for item in answer.json()["processes"] if item["status"] == "running"]


def test_system(hopx: CommandLine) -> None:
    # Asked of the control plane, whose /health may be this one.
    direct = CommandLine(hopx.server.url, hopx.home, hopx.server)
    assert "healthy" in direct.run("system", "health")
    hopx.run("run", "-s", SANDBOX_ID, "1")
    metrics = hopx.run("-o", "json", "system", "metrics", SANDBOX_ID)
    assert '"total_executions"' in metrics
    info = hopx.run("-o", "json", "system", "agent-info", SANDBOX_ID)
    assert '"agent_version"' in info
    # The table of people: every cell is formatted, so nothing may be missing.
    for name in ("metrics", "agent-info", "processes", "jupyter"):
        assert hopx.run("system", name, SANDBOX_ID).strip()


def test_a_command_in_a_terminal(hopx: CommandLine) -> None:
    printed = hopx.run("terminal", "connect", SANDBOX_ID, "-c", "echo $((6 * 7)); tty; pwd")
    assert "42" in printed
    assert "/dev/pts/" in printed
    assert str(hopx.server.workspace) in printed


def test_files(hopx: CommandLine) -> None:
    folder = "/workspace/from-cli"
    local = hopx.home / "local.bin"
    local.write_bytes(bytes(range(256)))
    hopx.run("files", "write", SANDBOX_ID, f"{folder}/a.txt", "--data", "one\ntwo\n")
    hopx.run("files", "upload", SANDBOX_ID, str(local), f"{folder}/b.bin")

    assert hopx.run("files", "read", SANDBOX_ID, f"{folder}/a.txt").endswith("one\ntwo\n")
    listed = hopx.run("files", "list", SANDBOX_ID, folder)
    assert "a.txt" in listed
    assert "b.bin" in listed
    assert "b.bin" in hopx.run("files", "info", SANDBOX_ID, f"{folder}/b.bin")
    back = hopx.home / "back.bin"
    hopx.run("files", "download", SANDBOX_ID, f"{folder}/b.bin", str(back))
    assert back.read_bytes() == bytes(range(256))
    real = hopx.directory() / "from-cli"
    assert sorted(path.name for path in real.iterdir()) == ["a.txt", "b.bin"]
    hopx.run("files", "delete", SANDBOX_ID, folder, "--force")
    assert not real.exists()
    hopx.run("files", "read", SANDBOX_ID, f"{folder}/a.txt", ok=False)
