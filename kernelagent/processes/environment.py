"""The environment of everything that runs: the service's own, then the sandbox's, then a caller's.

The service's part is a white list of its own variables, fixed at start. The sandbox's part is set
by /env and holds for what begins afterwards, and for the next run of each kernel.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

# What may be known of the service's environment; secrets have other names.
_INHERITED = frozenset(
    """
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR TERM LD_LIBRARY_PATH
    VIRTUAL_ENV CONDA_PREFIX IPYTHONDIR MPLCONFIGDIR OMP_NUM_THREADS
    XDG_RUNTIME_DIR XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME
    HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE
    CUDA_VISIBLE_DEVICES CUDA_HOME NVIDIA_VISIBLE_DEVICES
    """.split()
)

_OF_ONE_USER = frozenset(
    """
    IPYTHONDIR MPLCONFIGDIR XDG_RUNTIME_DIR XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME
    """.split()
)

# The service's own: they tell processes apart, and nothing may set them.
RESERVED = "KERNELAGENT_"


class Environment:
    """The variables that processes get; `marks` are those by which the service knows its own."""

    def __init__(self, inherited: tuple[str, ...] = (), marks: Mapping[str, str] | None = None):
        self._base = {
            name: value
            for name, value in os.environ.items()
            if (name in _INHERITED or name in inherited or name.startswith("LC_"))
            and not name.startswith(RESERVED)
        } | {"PATH": _search_path()}
        self._marks = dict(marks or {})
        self.variables: Mapping[str, str] = MappingProxyType({})

    @property
    def marks(self) -> Mapping[str, str]:
        """The variables by which the service knows its processes."""
        return self._marks

    def belong_to(self, name: str, home: str) -> None:
        """Be the environment of another user than the service's; before anything runs.

        What leads to the service's own places is left out.
        """
        self._base = {
            key: value for key, value in self._base.items() if key not in _OF_ONE_USER
        } | {"HOME": home, "USER": name, "LOGNAME": name}

    def set(self, variables: Mapping[str, str]) -> None:
        """Have these as the sandbox's part from now on.

        Each time a new object: whoever has the same one is up to date.
        """
        self.variables = MappingProxyType(dict(variables))

    def of_process(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a process gets that begins now, with `extra` before all else but the marks."""
        return {**self._base, **self.variables, **(extra or {}), **self._marks}

    def of_kernel(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a kernel starts with that learns of the sandbox's part later."""
        return {**self._base, **(extra or {}), **self._marks}

    def changes(
        self, had: Mapping[str, str], kept: Mapping[str, str]
    ) -> tuple[dict[str, str], list[str]]:
        """What to set and what to unset in a process that has `had` of the sandbox's part.

        `kept` are variables of its own, which stay as they are.
        """
        now = self.variables
        changed = {
            name: value
            for name, value in now.items()
            if name not in kept and had.get(name) != value
        }
        gone = [name for name in had if name not in now and name not in kept]
        # What it had covered comes to light again.
        changed |= {name: self._base[name] for name in gone if name in self._base}
        return changed, [name for name in gone if name not in self._base]


def _search_path() -> str:
    """Return the service's own PATH with the directory of its interpreter at the end.

    There are `python` and `pip`, and `node` if it comes from PyPI, where the system has none of its
    own: clients and people run them by these names.
    """
    beside = str(Path(sys.executable).parent)
    path = os.environ.get("PATH") or os.defpath
    return path if beside in path.split(os.pathsep) else os.pathsep.join((path, beside))
