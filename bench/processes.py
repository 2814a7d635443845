"""What a server's processes take, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from bench.servers import Server, server_facts

_CGROUPS = Path("/sys/fs/cgroup")


def memory(pid: int) -> float:
    """Proportional set size of a process, in MiB."""
    return _smaps(pid)["Pss"] / 1024


def private_memory(pid: int) -> float:
    """What a process shares with no other, in MiB: about what its end gives back."""
    smaps = _smaps(pid)
    return (smaps["Private_Clean"] + smaps["Private_Dirty"]) / 1024


def written_memory(pid: int) -> float:
    """What a process has written into its memory, in MiB, whoever else may still share it.

    Unlike the others it does not change with what other processes do.
    """
    return _smaps(pid)["Anonymous"] / 1024


def count(server: Server) -> dict[str, float]:
    """Everything that a server of ours and its fork server hold just now; memory in MiB."""
    own = psutil.Process(server.pid)
    # First what our own question would change.
    descriptors = own.num_fds()
    facts = server_facts(server)
    fork_server: Mapping[str, Any] = facts["fork_servers"].get("python", {})
    counts: dict[str, float] = {
        "descriptors": descriptors,
        "threads": own.num_threads(),
        "MiB of memory": written_memory(server.pid),
        "processes": len(set(_descendants(server.pid)) | set(bearers(server)) - {server.pid}),
        "files": sum(len(files) for _, _, files in os.walk(server.home)),
        "memory groups": sum(1 for _ in _groups(server.pid)),
        "sessions": facts["sessions"],
        "checkpoints": facts["memory"]["checkpoints"]["count"],
        "kernels leased": facts["pools"]["python"]["leased"],
        "restarts of the fork server": fork_server.get("restarts", 0),
    }
    if fork_server.get("pid"):
        forking = psutil.Process(fork_server["pid"])
        counts["descriptors of the fork server"] = forking.num_fds()
        counts["threads of the fork server"] = forking.num_threads()
        counts["MiB of the fork server"] = written_memory(forking.pid)
    return counts


def settled(
    server: Server, before: Mapping[str, float], *, patience: float = 10.0
) -> dict[str, float]:
    """Counts, once no more is there than `before`, or when `patience` is at its end."""
    deadline = time.monotonic() + patience
    while True:
        time.sleep(0.5)
        counts = count(server)
        if time.monotonic() > deadline or all(
            counts[what] <= number for what, number in before.items() if what in counts
        ):
            return counts


def remains(server: Server) -> dict[str, float]:
    """What is left of a server that has ended."""
    return {
        "processes": len(bearers(server)),
        "memory groups": sum(1 for _ in _groups(server.pid)),
    }


def bearers(server: Server) -> list[int]:
    """The processes that were started with the server's directory in their environment.

    These are its own, whoever their parent is by now: those that were forked show the environment
    of the process they were forked from.
    """
    mark = str(server.home).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _groups(pid: int) -> Iterator[Path]:
    """The memory groups that the server `pid` has made for its kernels."""
    # Not `rglob`: others' groups vanish meanwhile.
    for folder, names, _ in os.walk(_CGROUPS):
        if Path(folder).name.startswith(f"kernelagent-{pid}-"):
            yield Path(folder)
            yield from (Path(folder) / name for name in names)


def _smaps(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
