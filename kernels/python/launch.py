"""Starts a Python kernel with our additions, in whichever interpreter the kernelspec names.

With `--fork-server DESCRIPTOR` instead of `-f FILE`: the process that forks such kernels.
"""

from __future__ import annotations

import os
import signal
import sys

# The default handler would end a kernel that is interrupted before its loop runs.
signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100,PTH120 - no pathlib yet
    # The folder is needed for our own imports only; the user's code must not see it. The empty
    # entry (the working directory) comes back when IPython sets the path up.
    sys.path[:] = [here, *(entry for entry in sys.path if entry not in ("", here))]
    from kernelagent_python.parent import die_with_server

    die_with_server()
    stock = os.environ.pop("KERNELAGENT_STOCK_KERNEL", "") == "1"
    import kernelagent_python.app

    sys.path.remove(here)
    if sys.argv[1:2] == ["--fork-server"]:
        from kernelagent_python.forkserver import serve
        from kernelagent_python.preloading import prepare_python

        serve(int(sys.argv[2]), lambda: prepare_python(sys.argv[3:], stock=stock))
    else:
        kernelagent_python.app.launch(sys.argv[1:], stock=stock)


if __name__ == "__main__":
    main()
