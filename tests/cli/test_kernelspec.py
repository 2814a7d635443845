"""Our kernels under another front end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.command_line import kernelagent
from tests.servers import clean_environment
from tests.waiting import PATIENCE

RUN_ELSEWHERE = """
import json
import sys
from jupyter_client.manager import start_new_kernel

for name, code in json.loads(sys.argv[1]):
    manager, client = start_new_kernel(kernel_name=f"kernelagent-{name}")
    try:
        said = []
        client.execute_interactive(code, output_hook=said.append, timeout=60)
        print(name, [m["content"]["text"] for m in said if m["msg_type"] == "stream"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
"""


def test_registered_kernel_runs_under_another_front_end(tmp_path: Path) -> None:
    for _ in range(2):
        done = kernelagent("kernelspec", "install", "--prefix", str(tmp_path), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "share" / "jupyter"
    kernel = folder / "kernels" / "kernelagent-python"
    assert done.stdout.splitlines() == [
        f"kernelagent-{name}: {folder}/kernels/kernelagent-{name}"
        for name in ("python", "javascript", "typescript", "bash", "go")
    ]

    specification = json.loads((kernel / "kernel.json").read_text())
    assert Path(specification["argv"][0]).is_absolute()
    assert os.access(specification["argv"][1], os.R_OK)
    programs = {
        "python": "print(6 * 7)",
        "bash": "echo $((6 * 7))",
        "javascript": "console.log(6 * 7)",
        "go": "fmt.Println(6 * 7)",
    }
    ran = subprocess.run(
        [sys.executable, "-c", RUN_ELSEWHERE, json.dumps(list(programs.items()))],
        env=clean_environment(JUPYTER_PATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert ran.stdout.splitlines() == [f"{name} ['42\\n']" for name in programs]


def test_places_exclude_each_other(tmp_path: Path) -> None:
    done = kernelagent("kernelspec", "install", "--user", "--sys-prefix", cwd=tmp_path)

    assert done.returncode == 2
