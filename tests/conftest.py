"""Fixtures for all tests: settings in a temporary place, a real server process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelagent.cli.server import handle_ignored_signals
from kernelagent.jupyter import kernel
from kernelagent.settings import Settings, load_settings
from tests.engines import settings_below
from tests.servers import SECRET, Server, serving
from tests.waiting import PATIENCE

_DIRECTORY = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give each worker a temporary directory of its own, which its servers have too."""
    directory = Path(tempfile.mkdtemp(prefix="ka-"))
    # As the system's: servers may run as other users. Short: sockets have long names.
    directory.chmod(0o1777)
    config.stash[_DIRECTORY] = directory
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    # What tests make is below it, where servers let files be used.
    config.option.basetemp = directory / "tests"
    # Servers in this process start what must not inherit that it was started by nohup.
    handle_ignored_signals()
    if "coverage" in sys.modules:
        # A kernel writes what it has reached when it ends, which takes longer than it usually has.
        kernel._SHUTDOWN_GRACE = PATIENCE


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep what failed tests have made."""
    if exitstatus not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        del session.config.stash[_DIRECTORY]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the rest."""
    if _DIRECTORY in config.stash:
        shutil.rmtree(config.stash[_DIRECTORY], ignore_errors=True)


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


@pytest.fixture(scope="module")
def module_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of the engines that the tests of a module share."""
    with settings_below(tmp_path_factory.mktemp("engines")) as settings:
        yield settings


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
    settings = {
        "KERNELAGENT_POOL_IDLE": "2",
        "JUPYTER_PATH": str(_write_missing_language(root)),
    }
    with serving(root, **settings) as running:
        yield running
