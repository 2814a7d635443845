"""Kernel and protocol tests with the newest release of everything, whatever our bounds say.

It runs in an environment of its own, which it changes. Options are pytest's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/kernels", "tests/jupyter", "tests/sessions")
_NAME = re.compile(r"[\w.-]+(\[[^]]*\])?")


def main() -> int:
    if sys.prefix == sys.base_prefix:
        print("canary: run it with the interpreter of a virtual environment", file=sys.stderr)
        return 2
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    requirements: list[str] = [*project["dependencies"], *extras["dev"], *extras["rich-tests"]]
    names = [match[0] for match in map(_NAME.match, requirements) if match]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    newest = [*pip, "install", "--quiet", "--upgrade", "--upgrade-strategy", "eager", *names]
    subprocess.run(newest, check=True)
    for name in sorted(names, key=str.lower):
        found = distribution(name.partition("[")[0])
        print(f"{found.name} {found.version}", flush=True)
    # What lies outside our bounds, and what others cannot do with.
    subprocess.run([*pip, "check"], check=False)
    tests = [sys.executable, "-m", "pytest", "-q", *TESTS, *sys.argv[1:]]
    return subprocess.run(tests, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
