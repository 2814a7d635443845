"""What a server holds before and after much use, and how much of it may be more than before."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bench.processes import remains, settled
from bench.servers import Server, wait_for_pool

# The main one, that of the database, two of ZeroMQ, and those of the loop's own pool, which start
# one by one as they are needed and stay.
_MOST_THREADS = 1 + 1 + 2 + min(32, (os.cpu_count() or 1) + 4)
_MEMORY_GROWTH = 0.1

NOTE = (
    f"Threads may grow to {_MOST_THREADS}: the event loop's own pool starts them as needed. Memory "
    f"is what was written into it, and may grow by {_MEMORY_GROWTH:.0%}: a heap has holes."
)


def at_rest(
    server: Server, pool: int, before: Mapping[str, float], *, patience: float = 10.0
) -> dict[str, float]:
    """Counts once the pool is full again; waits a while for more than `before` to go."""
    client = server.client()
    wait_for_pool(client, pool)
    client.close()
    return settled(server, _allowed(before), patience=patience)


def left_over(
    server: Server, before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, float]:
    """What is there that may not, `after` and when the server has ended, which it has by now."""
    allowed = _allowed(before)
    more = {
        f"more {what}": round(after[what] - number, 1)
        for what, number in before.items()
        if after[what] > allowed[what]
    }
    return more | {f"{what} of the ended server": left for what, left in remains(server).items()}


def _allowed(before: Mapping[str, float]) -> dict[str, float]:
    limits = dict(before)
    for what, number in before.items():
        if what == "threads":
            limits[what] = max(number, _MOST_THREADS)
        elif what.startswith("MiB"):
            limits[what] = number * (1 + _MEMORY_GROWTH)
    return limits
