"""Pauses between the attempts of one delivery."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first` to `longest` seconds, a random half of each left out.

    What a receiver asks for with Retry-After is the least, up to `longest_asked`.
    """

    first: float = 1.0
    longest: float = 600.0
    longest_asked: float = 3600.0

    @property
    def limit(self) -> float:
        """No pause is longer than this."""
        return max(self.longest, self.longest_asked)

    def choose(self, attempts: int, asked: float | None = None) -> float:
        """The pause in seconds after `attempts` (from 1) have failed."""
        whole = min(self.longest, self.first * 2.0 ** min(attempts - 1, 64))
        # Not for a secret: receivers that failed together should not be asked together.
        pause = whole * random.uniform(0.5, 1.0)  # noqa: S311
        return max(pause, min(asked or 0.0, self.longest_asked))


def read_retry_after(value: str, now: float) -> float | None:
    """Seconds from `now` (Unix time) for which Retry-After asks; None if it cannot be read."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value)
        # Without a zone, it is read as UTC: that is the only one that HTTP has.
        return max(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now, 0.0)
    except (ValueError, OverflowError, IndexError):
        return None
