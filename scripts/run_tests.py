"""Every test: first on all processors, then by themselves those that measure or need the machine.

Options are pytest's. Prints wall and CPU minutes; the exit code is that of the first part that
failed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Each worker has servers and fork servers of its own, some 500 MiB.
MOST_WORKERS = 8
# A load above this makes the minutes incomparable.
QUIET = 0.5
# pytest's exit code.
_NOTHING_TO_RUN = 5


def main() -> int:
    # One more than processors: tests wait for a third of their time.
    workers = min((os.cpu_count() or 1) + 1, MOST_WORKERS)
    load = os.getloadavg()[0]
    note = "" if load < QUIET else f", above {QUIET}: what is slow may be somebody else's"
    print(f"{workers} workers; load {load:.2f}{note}", flush=True)
    begun = time.monotonic()
    # In the order in which they stand, so that modules stay whole; who is done first takes half of
    # what the other has left.
    codes = [
        _pytest("not alone", "-n", str(workers), "--dist", "worksteal"),
        _pytest("alone"),
    ]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = spent.ru_utime + spent.ru_stime
    wall = time.monotonic() - begun
    print(f"{wall / 60:.1f} minutes, {cpu / 60:.1f} CPU minutes", flush=True)
    # One part may have nothing of what the options name.
    ran = [code for code in codes if code != _NOTHING_TO_RUN]
    return next(filter(None, ran), 0) if ran else _NOTHING_TO_RUN


def _pytest(marks: str, *options: str) -> int:
    command = [sys.executable, "-m", "pytest", "-m", marks, *options, *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
