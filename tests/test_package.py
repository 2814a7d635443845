"""The package as users get it: a wheel, installed alone into a fresh environment, works."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernelagent import __version__

ROOT = Path(__file__).resolve().parent.parent

# Everything that the service needs is downloaded and installed once.
pytestmark = pytest.mark.timeout(600)

CODE = """
import sys
import kernelagent_python
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
print(kernelagent_python.__file__, sys.executable, sep="\\n")
"""


@dataclass(frozen=True)
class Installation:
    """An environment that has nothing but what the wheel asked for."""

    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead to nothing of ours."""
        return {"PATH": os.defpath, "HOME": str(self.home), "LANG": "C.UTF-8"}

    def run(self, *command: str) -> str:
        """What a command of the environment prints, run far from the sources."""
        name, *arguments = command
        return subprocess.run(
            [str(self.folder / "bin" / name), *arguments],
            cwd=self.home,
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, stdout=subprocess.DEVNULL)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder, home = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("home")
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    options = ["--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    return Installation(folder, home)


@pytest.fixture
def service(installed: Installation, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URL and token of the installed service, as it prints them at its first start."""
    command = [str(installed.folder / "bin" / "kernelagent"), "serve", "--port", "0"]
    folders = ["--workspace", str(tmp_path / "workspace"), "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(
        [*command, *folders],
        cwd=installed.home,
        env=installed.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = re.search(r"http://\S+", process.stdout.readline())
            token = re.search(r"token: (\S+)", process.stdout.readline())
            assert url
            assert token
            yield url[0], token[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_wheel_holds_the_package_and_its_kernels_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {
        "kernelagent",
        f"kernelagent-{__version__}.dist-info",
    }
    assert "kernelagent/py.typed" in names
    sources = {path.relative_to(ROOT) for path in (ROOT / "kernelagent").rglob("*.py")}
    assert {str(path) for path in sources} <= names
    kernels = [path for path in (ROOT / "kernels").rglob("*") if path.suffix in (".py", ".json")]
    assert kernels
    for path in kernels:
        assert f"kernelagent/_kernels/{path.relative_to(ROOT / 'kernels')}" in names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_installed_command_tells_its_version(installed: Installation) -> None:
    assert installed.run("kernelagent", "--version") == f"kernelagent {__version__}\n"


def test_nothing_of_the_sources_is_imported(installed: Installation) -> None:
    code = "import kernelagent, sys; print(kernelagent.__file__, *sys.path, sep='\\n')"
    for path in filter(None, installed.run("python", "-c", code).splitlines()):
        assert not Path(path).is_relative_to(ROOT)
    module = installed.run("python", "-c", "import kernelagent as k; print(k.__file__)")
    assert Path(module.strip()).is_relative_to(installed.folder)


def test_the_installed_service_runs_code_on_its_own_kernel(
    installed: Installation, service: tuple[str, str]
) -> None:
    url, token = service
    headers = {"Authorization": f"Bearer {token}"}
    response = httpx.post(
        f"{url}/execute", json={"code": CODE, "timeout": 120}, headers=headers, timeout=180
    )
    answer: dict[str, Any] = response.json()
    assert answer["success"], answer
    for path in answer["stdout"].split():
        assert Path(path).is_relative_to(installed.folder)
    assert base64.b64decode(answer["png"]).startswith(b"\x89PNG")
    assert answer["chart"]["type"] == "line"
    assert httpx.post(f"{url}/execute", json={"code": "1"}).status_code == 401
