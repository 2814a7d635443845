from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

KERNEL = Path(__file__).resolve().with_name("faulty_kernel.py")


def write_faulty_spec(
    directory: Path,
    *,
    name: str = "faulty",
    env: Mapping[str, str] | None = None,
    interrupt_mode: str = "signal",
) -> Path:
    """Write a kernelspec for the faulty kernel below `directory`; return its folder."""
    folder = directory / name
    folder.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, str(KERNEL), "-f", "{connection_file}"],
        "display_name": name,
        "language": "faulty",
        "interrupt_mode": interrupt_mode,
        "env": dict(env or {}),
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    return folder
