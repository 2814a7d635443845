"""How much memory kernels use: looked at in a thread, for a bounded time, kept for a moment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from kernelagent.processes.usage import resident_memory

# Seconds of one look. What it does not reach is as it was, and comes first in the next one.
_BUDGET = 0.05


class KernelMemoryLook:
    """Bytes of resident memory of kernels and their children, by language.

    Pages that forked kernels share count for each of them: an upper bound, and cheap to read.
    """

    def __init__(
        self, *, measure: Callable[[int], int] = resident_memory, budget: float = _BUDGET
    ) -> None:
        self._measure = measure
        self._budget = budget
        # By pid, the one that was looked at longest ago first.
        self._known: dict[int, int] = {}

    def look(self, kernels: Mapping[int, str]) -> dict[str, int]:
        """By language, of these kernels: their pids, and the language of each.

        Blocks on /proc for a fraction of a millisecond a kernel, so it is called in a thread.
        """
        known = {pid: used for pid, used in self._known.items() if pid in kernels}
        deadline = time.monotonic() + self._budget
        for pid in [*(kernels.keys() - known.keys()), *known]:
            used = self._measure(pid)
            # To the end of the queue.
            known.pop(pid, None)
            known[pid] = used
            if time.monotonic() > deadline:
                break
        self._known = known
        total: Counter[str] = Counter()
        for pid, used in known.items():
            total[kernels[pid]] += used
        return dict(total)
