"""The real command line, as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers import clean_environment
from tests.waiting import PATIENCE

KERNELAGENT = [sys.executable, "-m", "kernelagent"]


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
