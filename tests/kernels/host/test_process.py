"""Processes of a host: an interrupt reaches a tree that grows meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from kernelagent_host.process import interrupt_tree
from tests.waiting import PATIENCE

# Python itself can lose an interrupt: the exception of one that comes in a finaliser is ignored.
STARTS_MANY = """
import os, signal, subprocess
signal.signal(signal.SIGINT, lambda *_: os._exit(1))
children = [subprocess.Popen(["sleep", "60"]) for _ in range(5)]
print(flush=True)
children += [subprocess.Popen(["sleep", "60"]) for _ in range(300)]
children[0].wait()
"""


def session_of(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def test_an_interrupt_reaches_what_is_started_meanwhile() -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", STARTS_MANY],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as starter:
            try:
                assert starter.stdout is not None
                assert starter.stdout.readline()
                reached = interrupt_tree(psutil.Process(starter.pid))
                assert 5 < len(reached) < 300
                assert starter.wait(PATIENCE) != 0
                _, left = psutil.wait_procs(session_of(starter.pid), timeout=PATIENCE)
                assert left == []
            finally:
                for one in session_of(starter.pid):
                    one.kill()
