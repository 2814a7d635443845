"""Look-ups of names as a test wants them."""

from __future__ import annotations

import socket
import threading
from typing import Any

from tests.waiting import PATIENCE


class Names:
    """What a system's look-up would answer, and how often it was asked."""

    def __init__(self, *answers: list[str], gate: threading.Event | None = None) -> None:
        self._answers = list(answers)
        self._gate = gate
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if self._gate is not None:
            self._gate.wait(PATIENCE)
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [self._entry(address, port) for address in addresses]

    def _entry(self, address: str, port: int) -> tuple[Any, ...]:
        if ":" in address:
            plain, _, zone = address.partition("%")
            place: tuple[Any, ...] = (plain, port, 0, int(zone or 0))
            return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", place)
        return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
