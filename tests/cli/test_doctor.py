"""What `kernelagent doctor` finds, and what it advises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.command_line import kernelagent

if TYPE_CHECKING:
    from pathlib import Path


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in report["checks"]}


def test_a_machine_that_has_everything(tmp_path: Path) -> None:
    workspace, state = tmp_path / "workspace", tmp_path / "state"

    done = kernelagent(
        "doctor",
        "--json",
        cwd=tmp_path,
        KERNELAGENT_WORKSPACE=str(workspace),
        KERNELAGENT_STATE_DIR=str(state),
        KERNELAGENT_PORT="0",
    )

    report = json.loads(done.stdout)
    checks = by_name(report)
    assert done.returncode == 0
    assert report["ok"] is True
    assert "started in" in checks["python kernel"]["detail"]
    for name in ("python", "ipykernel", "numpy", "matplotlib", "workspace", "socket paths", "port"):
        assert checks[name]["status"] == "ok"
    layers = [check["name"] for check in report["checks"] if check["area"] == "isolation"]
    assert layers == [
        *("memory", "privileges", "user", "capabilities", "cover", "landlock", "seccomp")
    ]
    for check in report["checks"]:
        assert bool(check["how"]) is (check["status"] != "ok")
    # To look must not change anything.
    assert not workspace.exists()
    assert not state.exists()


def test_what_is_missing_is_told_with_the_way_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    state.chmod(0o777)
    runtime = tmp_path / ("long" * 30)

    done = kernelagent(
        "doctor",
        cwd=tmp_path,
        KERNELAGENT_WORKSPACE=str(tmp_path / "file" / "workspace"),
        KERNELAGENT_STATE_DIR=str(state),
        KERNELAGENT_RUNTIME_DIR=str(runtime),
    )

    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last == "missing: python kernel, workspace, state directory's mode, socket paths"
    assert "chmod 700" in done.stdout
    assert "KERNELAGENT_RUNTIME_DIR" in done.stdout


@pytest.mark.parametrize(
    ("environment", "detail", "how"),
    [
        ({"KERNELAGENT_FORK_SERVER": "false"}, "off", "KERNELAGENT_FORK_SERVER=true"),
        ({"KERNELAGENT_PRELOAD": "no_such_module"}, "no_such_module", "start by themselves"),
        ({"KERNELAGENT_LEAN_KERNEL": "false"}, "forks stock kernels", ""),
    ],
)
def test_the_fork_server_is_told_and_what_to_do_about_it(
    tmp_path: Path, environment: dict[str, str], detail: str, how: str
) -> None:
    done = kernelagent(
        "doctor",
        "--json",
        cwd=tmp_path,
        KERNELAGENT_WORKSPACE=str(tmp_path / "workspace"),
        KERNELAGENT_STATE_DIR=str(tmp_path / "state"),
        KERNELAGENT_PORT="0",
        **{"KERNELAGENT_PRELOAD": "", **environment},
    )

    checks = by_name(json.loads(done.stdout))
    assert done.returncode == 0
    assert checks["python kernel"]["status"] == "ok"
    assert checks["fork server"]["status"] == ("absent" if how else "ok")
    assert detail in checks["fork server"]["detail"]
    assert how in checks["fork server"]["how"]
