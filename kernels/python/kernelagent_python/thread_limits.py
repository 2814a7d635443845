"""How many threads numerical libraries may use: few in the fork server, all cores in a kernel."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

# Library in the process: the function that sets its number of threads, the variable that says it.
# OpenBLAS needs none: it has the right number from the start and ends its threads before a fork.
_SETTERS = (
    (re.compile(r"/libgomp[^/]*\.so"), "omp_set_num_threads", "OMP_NUM_THREADS"),
    (re.compile(r"/libi?omp5?[^/]*\.so"), "omp_set_num_threads", "OMP_NUM_THREADS"),
    (re.compile(r"/libmkl_rt[^/]*\.so"), "MKL_Set_Num_Threads", "MKL_NUM_THREADS"),
)


class ThreadLimits:
    """`restore` gives a forked kernel what a process of its own would have taken."""

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))

    def restore(self, env: Mapping[str, str]) -> None:
        """Set each loaded library to what `env` says, or to the machine's cores."""
        for library, setter, variable in _loaded():
            wanted = env.get(variable) or env.get("OMP_NUM_THREADS") or ""
            number = int(wanted) if wanted.isdigit() else self._cores
            getattr(ctypes.CDLL(library), setter)(number)


def _loaded() -> list[tuple[str, str, str]]:
    paths = {
        line.split(maxsplit=5)[5].rstrip()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if ".so" in line and "/" in line
    }
    return [
        (path, setter, variable)
        for path in paths
        for pattern, setter, variable in _SETTERS
        if pattern.search(path)
    ]
