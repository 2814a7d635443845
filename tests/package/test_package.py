"""The package as users get it: a wheel, installed alone into a fresh environment, works.

With its packages downloaded by pip: `make prove installation`.
"""

from __future__ import annotations

import base64
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernelagent import __version__
from tests.package.installation import (
    ROOT,
    Installation,
    build_wheel,
    install_with_packages_of_ours,
)

CODE = """
import sys
import kernelagent_python
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
print(kernelagent_python.__file__, sys.executable, sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install_with_packages_of_ours(wheel, tmp_path_factory.mktemp("installed"))


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
    installed: Installation, tmp_path: Path
) -> None:
    with installed.serving(tmp_path) as (url, token):
        headers = {"Authorization": f"Bearer {token}"}
        response = httpx.post(
            f"{url}/execute", json={"code": CODE, "timeout": 120}, headers=headers, timeout=180
        )
        refused = httpx.post(f"{url}/execute", json={"code": "1"})
    answer: dict[str, Any] = response.json()
    assert answer["success"], answer
    for path in answer["stdout"].split():
        assert Path(path).is_relative_to(installed.folder)
    assert base64.b64decode(answer["png"]).startswith(b"\x89PNG")
    assert answer["chart"]["type"] == "line"
    assert refused.status_code == 401
