"""Starts an ipykernel with our additions, in whichever interpreter the kernelspec names."""

from __future__ import annotations

import os
import signal
import sys

# The default handler would end a kernel that is interrupted before its loop runs.
signal.signal(signal.SIGINT, signal.SIG_IGN)


def die_with_server() -> None:
    """Have the system kill this kernel when the server goes, however it goes."""
    import ctypes

    # Removed so that ipykernel starts no thread that polls for its parent every second.
    server = int(os.environ.pop("JPY_PARENT_PID", "0"))
    if not server or not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:
        os._exit(1)


def main() -> None:
    die_with_server()
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100,PTH120 - no pathlib yet
    # The folder is needed for our own imports only; the user's code must not see it. The empty
    # entry (the working directory) comes back when IPython sets the path up.
    sys.path[:] = [here, *(entry for entry in sys.path if entry not in ("", here))]
    from kernelagent_python.app import launch

    sys.path.remove(here)
    launch(sys.argv[1:])


if __name__ == "__main__":
    main()
