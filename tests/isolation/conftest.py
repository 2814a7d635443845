"""Servers of different users, and an interpreter that other users can execute."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from kernelagent.isolation.confinement import Confinement
from kernelagent.processes.environment import Environment
from kernelagent.settings import Settings
from tests.isolation.confinements import NEEDS, others
from tests.servers import WITHOUT_KERNELS, Server, serving

# Nobody's, and not the one that the service takes by itself.
ORDINARY = 61185

_NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")


@dataclass(frozen=True)
class Place:
    """A directory that every user can enter, with what the tests of isolation share."""

    path: Path
    # An interpreter that every user can execute, with the libraries of ours.
    python: Path
    # `id`, which makes whoever runs it root.
    privileged: Path


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="ka-isolation-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        privileged = path / "privileged-id"
        shutil.copy(shutil.which("id") or "/usr/bin/id", privileged)
        privileged.chmod(0o4755)
        yield Place(path, _make_python(path / "python"), privileged)


def as_ordinary() -> tuple[str, ...]:
    """What makes a command run as an ordinary user."""
    if os.getuid() != 0:
        return ()
    # setpriv itself may execute more than that user.
    return ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", "env")


@functools.cache
def ordinary_users_make_namespaces() -> bool:
    """Whether an ordinary user can make one: not on every system, and never in a chroot."""
    command = [*as_ordinary(), "unshare", "--user", "--map-root-user", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


_REFUSE_NAMESPACES = """
import os, sys
from kernelagent.isolation import privileges, seccomp
privileges.forbid_new_privileges()
seccomp.REFUSED.clear()
if os.getuid() == 0:
    # As Docker does: nothing of SYS_ADMIN, SYS_PTRACE, MKNOD and the like.
    privileges.keep_capabilities(privileges.KEPT | {8, 13})
seccomp.REFUSED["unshare"] = (272, 97)
seccomp.install()
os.execv(sys.argv[1], sys.argv[1:])
"""


def without_namespaces(place: Place) -> tuple[str, ...]:
    """What makes a command run with what a container engine permits by default."""
    return (str(place.python), "-c", _REFUSE_NAMESPACES)


def _make_python(folder: Path) -> Path:
    """A virtual environment of an interpreter of our version that others can execute."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [candidate, "-m", "venv", "--without-pip", "--clear", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            continue
        libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        here = str(Path(__file__).parent.parent.parent)
        paths = folder / "lib" / version / "site-packages" / "shared.pth"
        paths.write_text("\n".join([here, *sorted(libraries)]) + "\n")
        python = folder / "bin" / "python"
        trial = [str(python), "-c", "import ipykernel, kernelagent.app"]
        if subprocess.run([*as_ordinary(), *trial], cwd="/", check=False).returncode == 0:
            return python
    pytest.skip("no interpreter here can be executed by another user")


@contextlib.contextmanager
def starting(place: Place, kind: str, **environment: Any) -> Iterator[Server]:
    """A server as one of three kinds, whose fork server has imported nothing yet."""
    folder = Path(tempfile.mkdtemp(dir=place.path))
    folder.chmod(0o755)
    python: tuple[str, ...] = (str(place.python),)
    if kind.endswith(" in a container"):
        python = (*without_namespaces(place), *python)
    if kind.startswith("root"):
        # An interpreter that only root can execute, or one that is not asked about.
        environment["KERNELAGENT_SANDBOX_USER"] = "root"
    if kind.startswith("ordinary user") and os.getuid() == 0:
        os.chown(folder, ORDINARY, ORDINARY)
        python = (*as_ordinary(), *python)
        environment["HOME"] = str(folder)
    environment = {"KERNELAGENT_PRELOAD": "", **environment}
    state_dir = folder / "var" / "state"
    with serving(folder, state_dir=state_dir, python=python, **environment) as server:
        yield server


KINDS = [
    pytest.param("another user", marks=_NEEDS_ROOT),
    pytest.param("another user in a container", marks=_NEEDS_ROOT),
    pytest.param("root", marks=_NEEDS_ROOT),
    pytest.param("root in a container", marks=_NEEDS_ROOT),
    "ordinary user",
    "ordinary user in a container",
]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def guarded(place: Place, kind: str) -> Iterator[Server]:
    """A server of each kind, with all the isolation that it can have."""
    with starting(place, kind) as server:
        yield server


@pytest.fixture(scope="module")
def open_server(place: Place, kind: str) -> Iterator[Server]:
    """The same without isolation, for commands."""
    with starting(place, kind, KERNELAGENT_ISOLATION="off", **WITHOUT_KERNELS) as server:
        yield server


@pytest.fixture(autouse=True)
def _know_others() -> None:
    others.clear()
    others.update(psutil.Process().children())


@pytest.fixture
async def confinement(settings: Settings, _know_others: None) -> AsyncIterator[Confinement]:
    settings.workspace.mkdir()
    opened = Confinement(settings)
    await opened.open(NEEDS, Environment())
    yield opened
    await opened.close()
