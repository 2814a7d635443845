"""A kernel does not outlive the server that has started it."""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_server() -> None:
    """Have the system kill this process when the server goes, however it goes."""
    import ctypes

    # Removed so that ipykernel starts no thread that polls for its parent every second.
    server = int(os.environ.pop("JPY_PARENT_PID", "0"))
    if not server or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:
        os._exit(1)
