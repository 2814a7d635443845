"""Which versions of ipykernel and IPython the lean kernel was tested with."""

from __future__ import annotations

import importlib.metadata
import sys

# It overrides private parts of both: from the first version, up to but without the second.
TESTED = {"ipykernel": ((7, 4), (7, 5)), "ipython": ((9, 0), (10, 0))}


def unsupported() -> str | None:
    """Why stock classes have to serve in this interpreter; None if the lean ones can."""
    if not sys.platform.startswith("linux"):
        return f"the lean kernel needs Linux, this is {sys.platform}"
    for package, (first, beyond) in TESTED.items():
        version = importlib.metadata.version(package)
        if not first <= _numbers(version) < beyond:
            oldest, newer = (".".join(map(str, bound)) for bound in (first, beyond))
            return f"{package} {version} is not in the tested range ({oldest} to below {newer})"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in parts)
