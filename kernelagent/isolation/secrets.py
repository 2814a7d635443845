"""The service forgets what it was started with, once it has read it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from pathlib import Path

_ENV_START, _ENV_END = 47, 48  # in /proc/PID/stat, after the name


def forget(names: Collection[str]) -> None:
    """Remove variables from this process's environment, and their values from its memory of it.

    The system shows others that memory, whatever becomes of the variables. Case does not matter.
    """
    wanted = {name.upper() for name in names}
    for name in [name for name in os.environ if name.upper() in wanted]:
        del os.environ[name]
    fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()
    address, end = int(fields[_ENV_START]), int(fields[_ENV_END])
    for entry in ctypes.string_at(address, end - address).split(b"\0"):
        variable, _, value = entry.partition(b"=")
        if os.fsdecode(variable).upper() in wanted:
            ctypes.memset(address + len(variable) + 1, 0, len(value))
        address += len(entry) + 1
