"""The side channel between the server and a kernel: data that user code does not see."""

from __future__ import annotations

from typing import Any

SIDE_CHANNEL = "kernelagent"


def scope_of(metadata: dict[str, Any] | None) -> dict[str, Any]:
    """What a request's metadata says about environment and directory."""
    return (metadata or {}).get(SIDE_CHANNEL) or {}


def failure(error: BaseException) -> dict[str, Any]:
    """The part of a reply that tells of `error`."""
    name = type(error).__name__
    return {"status": "error", "ename": name, "evalue": str(error), "traceback": []}
