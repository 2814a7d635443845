"""Sessions that are used, branched, interrupted and killed at random leave nothing behind.

Two thousand of them, and the memory that they take: `make prove soak`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.leftovers import left_over
from prove.soak import live, running, settled


@pytest.mark.timeout(300)
def test_rough_sessions_leave_nothing_and_get_right_answers(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        # Whatever comes once and stays must be there before.
        warm = live(server, range(-10, 0), seed=1)
        before = settled(server)
        lives = live(server, range(30), seed=1)
        after = settled(server, before)
    left = left_over(server, before, after)

    assert warm.complaints == lives.complaints == []
    assert len(lives.actions) > 5
    # Memory goes up and down by more than so few sessions could leave.
    assert {what: number for what, number in left.items() if number and "MiB" not in what} == {}
