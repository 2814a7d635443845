"""The workspace by the name that published clients have for it."""

from __future__ import annotations

import os
from pathlib import Path

# Clients send it with every call that names no directory.
CLIENTS_NAME = "/workspace"


def real_path(path: str, workspace: Path) -> str:
    """`path`, beneath `workspace` if clients mean that by it.

    That is so for `/workspace` where the machine has no such directory.
    """
    beneath = path == CLIENTS_NAME or path.startswith(f"{CLIENTS_NAME}/")
    if not beneath or os.path.lexists(CLIENTS_NAME):
        return path
    return f"{workspace}{path[len(CLIENTS_NAME) :]}"
