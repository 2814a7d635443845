"""The wheel, installed by pip into an empty environment, runs code and shows a plot.

Downloads what it needs from the package index, which the test of the suite does not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import httpx

from prove.report import Report
from tests.package.installation import build_wheel, install

LIMIT = 900

_PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])"


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="ka-installation-") as name:
        directory = Path(name)
        (directory / "wheel").mkdir()
        wheel = build_wheel(directory / "wheel")
        report.say(f"built {wheel.name}")
        installation = install(wheel, directory)
        report.say(installation.run("kernelagent", "--version").strip())
        report.figure("packages", len(list(installation.packages.glob("*.dist-info"))))
        with installation.serving(directory) as (url, token):
            body = {"code": _PLOT, "timeout": 120}
            headers = {"Authorization": f"Bearer {token}"}
            answer = httpx.post(f"{url}/execute", json=body, headers=headers, timeout=180).json()
        report.check(answer.get("success") is True, "code runs")
        report.check(bool(answer.get("png")), "its plot is shown")
