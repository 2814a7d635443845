"""Which lines and branches the tests reach, in the service, in kernels and in child processes.

Each Python process of the virtual environment measures itself while this runs, whatever its
environment variables and directory are: a `.pth` file starts the measurement. What a process has
not written when SIGKILL ends it is not counted, and neither are the spawner (it starts without
`site`) and interpreters outside the virtual environment.

Options are pytest's; the report is in `out/coverage`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "coverage"
DATA = OUT / "data"
PTH = Path(sysconfig.get_path("purelib")) / "kernelagent_coverage.pth"

_START = """\
import coverage
measured = coverage.Coverage(
    data_file={data!r}, data_suffix=True, source={source!r}, config_file={config!r}
)
measured._auto_save = True
measured._warn_no_data = False
measured._warn_unimported_source = False
measured._warn_preimported_source = False
measured.start()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report-only", action="store_true", help="from the last run's data")
    options, pytest_options = parser.parse_known_args()
    code = 0
    if not options.report_only:
        shutil.rmtree(OUT, ignore_errors=True)
        DATA.mkdir(parents=True)
        # Kernels may run as another user.
        DATA.chmod(0o1777)
        with measuring():
            command = [sys.executable, str(ROOT / "scripts" / "run_tests.py"), *pytest_options]
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
    report()
    return code


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Have every Python process of this virtual environment measure itself."""
    start = _START.format(
        data=str(DATA / "combined"),
        source=[str(ROOT / "kernelagent"), str(ROOT / "kernels")],
        config=str(ROOT / "pyproject.toml"),
    )
    # A line of such a file is executed if it begins with `import`.
    PTH.write_text(f"import sys; exec({start!r})\n")
    try:
        yield
    finally:
        PTH.unlink()


def report() -> None:
    """Combine what the processes wrote; print a line per folder, write a page per file."""
    coverage = Coverage(data_file=str(OUT / "combined"), config_file=str(ROOT / "pyproject.toml"))
    coverage.combine([str(DATA)], keep=True)
    coverage.save()
    coverage.html_report(directory=str(OUT / "html"))
    coverage.json_report(outfile=str(OUT / "coverage.json"))
    measured = json.loads((OUT / "coverage.json").read_text())
    folders: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, file in measured["files"].items():
        folder = str(Path(name).parent)
        for key, number in file["summary"].items():
            if isinstance(number, int):
                folders[folder][key] += number
    print(f"{'folder':46} {'lines':>7} {'reached':>8} {'branches':>9} {'reached':>8}")
    for folder, numbers in sorted(folders.items()):
        print(_row(folder, numbers))
    print(_row("all", measured["totals"]))
    print(f"Each file, line by line: {(OUT / 'html' / 'index.html').relative_to(ROOT)}")


def _row(name: str, numbers: dict[str, Any]) -> str:
    lines, branches = numbers["num_statements"], numbers["num_branches"]
    return (
        f"{name:46} {lines:7} {_share(numbers['covered_lines'], lines):>8} "
        f"{branches:9} {_share(numbers['covered_branches'], branches):>8}"
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


if __name__ == "__main__":
    sys.exit(main())
