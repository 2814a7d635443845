"""Ctrl-C for a shell and what it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from kernelagent_bash.shell import Shell
from kernelagent_bash.waiting import family, group_of

_MOST_ATTEMPTS = 20
# Seconds for which the shell may be about to begin the cell.
_LONGEST_WAIT = 0.5


class Interrupt:
    """One interrupt. By a signal and not by the key, which programs can disarm."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._for_shell = False
        self._signalled: set[int] = set()
        self._attempts = 0
        self._sent = False
        self._began = time.monotonic()

    @property
    def pending(self) -> bool:
        """Whether something may have to be sent again."""
        return self._attempts < _MOST_ATTEMPTS

    @property
    def is_old(self) -> bool:
        """Whether it has waited for too long."""
        return time.monotonic() > self._began + _LONGEST_WAIT

    def send(self) -> None:
        self._sent = True
        # If a program has the terminal, it is for that one to decide what becomes of the cell.
        self._for_shell = not self._signal_front()
        if self._for_shell:
            # All at once: were a child to end before the shell has heard, the cell would go on.
            for pid in self._beside_shell():
                self._is_due(pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGINT)

    def send_again(self) -> None:
        """Send it, if it was not, or to what the shell was about to start and has not had it."""
        if not self._sent:
            self.send()
            return
        self._attempts += 1
        if (self._for_shell or not self._signalled) and not self._signal_front():
            self._signal_beside_shell()

    def _signal_front(self) -> bool:
        """Signal the group of programs that has the terminal; whether there is one."""
        shell = self._shell
        group = shell.control.foreground
        if group <= 0 or group == os.getpgid(shell.pid):
            return False
        if self._is_due(group):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGINT)
        return True

    def _signal_beside_shell(self) -> None:
        for pid in self._beside_shell():
            if self._is_due(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)

    def _beside_shell(self) -> list[int]:
        """What the shell has put into no group of its own: `$(...)`, `set +m`."""
        own = self._shell.pid
        return [pid for pid in family(own) if pid != own and group_of(pid) == own]

    def _is_due(self, pid: int) -> bool:
        """Whether it is to be signalled; from then on it counts as signalled."""
        if pid in self._signalled:
            return False
        # A child of the shell that has not become a program yet loses the signal: once more.
        if not _runs_same_program(pid, self._shell.pid):
            self._signalled.add(pid)
        return True


def _runs_same_program(pid: int, other: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink() == Path(f"/proc/{other}/exe").readlink()
    except OSError:
        return False
