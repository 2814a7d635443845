"""Programs are found where the service finds them, then beside its interpreter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kernelagent.processes.environment import Environment
from tests.installed import program
from tests.jobs.jobs import post
from tests.runs import run
from tests.servers import WITHOUT_KERNELS, serving

_BESIDE = str(Path(sys.executable).parent)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/first:/second", f"/first:/second:{_BESIDE}"),
        (f"{_BESIDE}:/second", f"{_BESIDE}:/second"),
        ("", f"{os.defpath}:{_BESIDE}"),
    ],
)
def test_the_directory_of_the_interpreter_is_last(
    path: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    assert Environment().of_process()["PATH"] == found
    assert Environment().of_kernel()["PATH"] == found
    assert Environment().of_process({"PATH": "/own"})["PATH"] == "/own"


def test_a_service_without_a_path_has_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    assert Environment().of_process()["PATH"] == f"{os.defpath}:{_BESIDE}"


async def test_python_is_a_command_where_the_system_has_it_by_another_name(tmp_path: Path) -> None:
    """As on Debian; a published client sends `python -c ...`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "setsid"):
        (programs / name).symlink_to(program(name))
    script = "import sys; print(sys.prefix)"
    code = f"import subprocess; print(subprocess.check_output(['python', '-c', {script!r}]))"
    with serving(tmp_path, **WITHOUT_KERNELS, PATH=str(programs)) as server:
        answer = await post(server, "/commands/run", command=f"python -c '{script}'")
        assert (answer["stdout"], answer["stderr"]) == (f"{sys.prefix}\n", "")
        assert (await run(server, code, timeout=60))["stdout"] == f"b'{sys.prefix}\\n'\n"
