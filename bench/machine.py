"""What the numbers were measured on, in general words."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import psutil

_PACKAGES = (
    "kernelagent",
    "fastapi",
    "ipykernel",
    "jupyter_client",
    "jupyter_kernel_gateway",
    "nbclient",
    "pyzmq",
    "uvicorn",
    "uvloop",
)


def describe_machine() -> dict[str, object]:
    """Cores, memory, system, versions, and how busy it is just now."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "load": round(os.getloadavg()[0], 2),
    }
