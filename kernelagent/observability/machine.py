"""What the machine, or the container, has and uses."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import pwd
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_CGROUP = Path("/sys/fs/cgroup")
# The file with the limit, that with what is used, that with details, and the name therein of what
# the system can take back at any time; version 2, then version 1.
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
# What may be shown of the service's variables; anything else could be a secret.
_SHOWN_VARIABLES = ("LANG", "LC_ALL", "TZ", "TERM")


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of something."""

    total: int
    used: int
    free: int

    @property
    def facts(self) -> dict[str, Any]:
        """As on the wire."""
        percent = round(100 * self.used / self.total, 1) if self.total else 0.0
        return {
            "total": self.total,
            "used": self.used,
            "free": self.free,
            "usage_percent": percent,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy the machine is."""

    cpu_percent: float
    cores: int
    memory: Share
    disk: Share
    processes: int
    running: int

    @property
    def facts(self) -> dict[str, Any]:
        """As on the wire."""
        return {
            "cpu": {"usage_percent": self.cpu_percent, "cores": self.cores},
            "memory": self.memory.facts,
            "disk": self.disk.facts,
        }


class Machine:
    """Looks at the machine; its methods block on /proc, so they are called in a thread."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._cpu = psutil.cpu_times()
        self._cpu_at = time.monotonic()
        self._cpu_percent = 0.0

    def usage(self) -> Usage:
        """What is used just now; the processor's share is that since the last look."""
        memory = memory_share()
        statuses = [process.info["status"] for process in psutil.process_iter(["status"])]
        return Usage(
            cpu_percent=self._look_at_cpu(),
            cores=cores(),
            memory=memory,
            disk=disk_share(self._workspace),
            processes=len(statuses),
            running=statuses.count(psutil.STATUS_RUNNING),
        )

    def facts(self) -> dict[str, Any]:
        """What does not change: the system, the hardware, the network, the user."""
        hostname = socket.gethostname()
        memory, disk = memory_share(), disk_share(self._workspace)
        return {
            "os": {
                **_release(),
                "kernel": platform.release(),
                "arch": platform.machine(),
                "hostname": hostname,
                "timezone": time.strftime("%Z"),
            },
            "hardware": {
                "cpu_cores": cores(),
                "cpu_model": _cpu_model(),
                "memory_mb": memory.total // 2**20,
                "disk_mb": disk.total // 2**20,
            },
            "network": {"hostname": hostname, "interfaces": _interfaces()},
            "environment": {**_user(), "working_dir": str(self._workspace)},
        }

    def _look_at_cpu(self) -> float:
        now, times = time.monotonic(), psutil.cpu_times()
        # Too short a time says nothing: the system counts in hundredths of a second.
        if now - self._cpu_at >= 0.1:
            whole = sum(times) - sum(self._cpu)
            idle = _idle(times) - _idle(self._cpu)
            if whole > 0:
                self._cpu_percent = round(min(max(100 * (1 - idle / whole), 0.0), 100.0), 1)
            self._cpu, self._cpu_at = times, now
        return self._cpu_percent


def cores() -> int:
    """How many processors this process may use, a container's share rounded up."""
    allowed = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        # "max" of version 2 and -1 of version 1 are no limit.
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return min(allowed, max(math.ceil(int(quota) / int(period)), 1))
    with contextlib.suppress(OSError, ValueError):
        share = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period = (_CGROUP / "cpu/cpu.cfs_period_us").read_text()
        if share > 0:
            return min(allowed, max(math.ceil(share / int(period)), 1))
    return allowed


def memory_share() -> Share:
    """The memory of the machine, or of the container where it has less."""
    whole = psutil.virtual_memory()
    for limit_file, used_file, detail_file, reclaimable in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limit = int((_CGROUP / limit_file).read_text())
            if limit >= whole.total:
                continue
            used = int((_CGROUP / used_file).read_text())
            used = max(used - _detail(_CGROUP / detail_file, reclaimable), 0)
            return Share(limit, used, max(limit - used, 0))
    return Share(whole.total, whole.total - whole.available, whole.available)


def disk_share(path: Path) -> Share:
    """The file system that `path` is on; nothing of one that is not there."""
    try:
        disk = shutil.disk_usage(path)
    except OSError:
        return Share(0, 0, 0)
    return Share(disk.total, disk.used, disk.free)


def _detail(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _idle(times: Any) -> float:
    return float(times.idle + getattr(times, "iowait", 0.0))


def _release() -> dict[str, str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return {"name": platform.system(), "version": platform.version()}
    return {"name": release["NAME"], "version": release.get("VERSION_ID", "")}


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Hardware", "cpu model"):
                return value.strip()
    return platform.processor() or platform.machine()


def _interfaces() -> list[dict[str, str]]:
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        by_family = {int(address.family): address.address for address in addresses}
        ip = by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ""
        mac = by_family.get(psutil.AF_LINK) or ""
        found.append({"name": name, "ip": ip.partition("%")[0], "mac": mac})
    return found


def _user() -> dict[str, Any]:
    shell, home, name = "", "", str(os.geteuid())
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(os.geteuid())
        shell, home, name = entry.pw_shell, entry.pw_dir, entry.pw_name
    shown = {variable: os.environ.get(variable) for variable in _SHOWN_VARIABLES}
    return {
        "shell": shell,
        "user": name,
        "home": home,
        "path": os.environ.get("PATH", os.defpath),
        "environment": {name: value for name, value in shown.items() if value is not None},
    }
