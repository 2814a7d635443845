"""Starts a host kernel: `--driver FILE [OPTION...] -f CONNECTION_FILE`.

With `--fork-server DESCRIPTOR` instead: the process that forks such kernels, of any language.
"""

from __future__ import annotations

import os
import signal
import sys

# The default handler would end a kernel that is interrupted before its loop runs.
signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100,PTH120 - no pathlib yet
    sys.path[:0] = [here, os.path.join(os.path.dirname(here), "python")]  # noqa: PTH118,PTH120
    from kernelagent_python.parent import die_with_server

    die_with_server()
    os.environ.pop("KERNELAGENT_STOCK_KERNEL", None)
    arguments = sys.argv[1:]
    if arguments[:1] == ["--fork-server"]:
        from kernelagent_host.app import prepare_host
        from kernelagent_python.forkserver import serve

        serve(int(arguments[1]), prepare_host)
        return
    if arguments[:1] != ["--driver"] or "-f" not in arguments[2:]:
        sys.exit("usage: launch_host.py --driver FILE [OPTION...] -f CONNECTION_FILE")
    from kernelagent_host.app import launch
    from kernelagent_host.loading import DriverSpec

    end = arguments.index("-f", 2)
    launch(DriverSpec(arguments[1], arguments[2:end]), arguments[end:])


if __name__ == "__main__":
    main()
