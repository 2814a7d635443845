"""`python -m prove NAME [--seed N]`; without a name, the list."""

from __future__ import annotations

import argparse
import ast
import importlib
import signal
import sys
from pathlib import Path

from prove.report import Report

_OURS = {"__init__", "__main__", "report"}


def main() -> int:
    proofs = {
        path.stem: _first_line(path)
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if path.stem not in _OURS
    }
    parser = argparse.ArgumentParser(
        prog="make prove", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("name", nargs="?", choices=[*proofs, []])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.name:
        for name, line in proofs.items():
            print(f"make prove {name:12} {line}")
        return 0
    proof = importlib.import_module(f"prove.{options.name}")
    report = Report(options.name, options.seed)
    # A proof is bounded: the default action of the signal ends it.
    signal.alarm(proof.LIMIT)
    proof.prove(report)
    return report.close()


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n", 1)[0]


if __name__ == "__main__":
    sys.exit(main())
