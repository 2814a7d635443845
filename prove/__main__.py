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
    # Raised, so that what a proof has started is ended.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _leave)
    signal.alarm(proof.LIMIT)
    try:
        proof.prove(report)
    except TimeoutError:
        report.check(False, f"it ends within {proof.LIMIT} s")
    return report.close()


def _leave(number: int, _: object) -> None:
    if number == signal.SIGALRM:
        raise TimeoutError
    sys.exit(128 + number)


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n", 1)[0]


if __name__ == "__main__":
    sys.exit(main())
