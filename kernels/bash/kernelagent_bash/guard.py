"""Ends a session when this process is killed: what a shell has put into the background lives on."""

from __future__ import annotations

import os
import subprocess

# The pipe ends with the process that holds its other end. In /proc/PID/stat the session is the
# fourth field after the name.
_SCRIPT = """
read -r _
for stat in /proc/[0-9]*/stat; do
    read -r text <"$stat" || continue
    set -- ${text##*) }
    [ "$4" = "$0" ] && kill -9 "${text%% *}"
done
"""


class Guard:
    """Watches over the session of `leader`; `close` once the session has been ended."""

    def __init__(self, leader: int) -> None:
        """Raises OSError."""
        reads, self._held = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, str(leader)],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.close(reads)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._held)
