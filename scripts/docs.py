"""Writes the generated parts of docs/, which follow from the code; `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from kernelagent.reference import pages

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> int:
    """Exit code 1 if `--check` finds a page that is not up to date."""
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    for name in stale:
        sys.stdout.write(f"docs/{name} {'is stale' if '--check' in sys.argv else 'written'}\n")
    return bool(stale) and "--check" in sys.argv


if __name__ == "__main__":
    sys.exit(main())
