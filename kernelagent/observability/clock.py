"""When the service started."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """When the service started."""

    def __init__(self) -> None:
        self.started_at = datetime.now(UTC)
        self._started = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._started
