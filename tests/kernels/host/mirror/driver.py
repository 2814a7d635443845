"""The driver of a language that does what each line says; see host.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kernelagent_host.json_driver import JsonDriver


class Driver(JsonDriver):
    """Drives host.py."""

    language_info = {  # noqa: RUF012
        "name": "mirror",
        "version": "1",
        "mimetype": "text/plain",
        "file_extension": ".mirror",
    }
    banner = "Mirror"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-S", str(Path(__file__).with_name("host.py"))]
