"""Which results may be shown to others."""

from __future__ import annotations

from typing import Any

import pytest

from kernelagent.execution.cache.service import _is_complete
from kernelagent.jupyter.outputs import Truncation
from kernelagent.outcome import Outcome
from tests.execution.results import display, error, result, stream


@pytest.mark.parametrize("outputs", [(), (stream("x"), display({"text/html": "x"}))])
def test_a_successful_whole_result_is_kept(outputs: Any) -> None:
    assert _is_complete(result(*outputs))


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Outcome.ERROR, "exit_code": 1},
        {"exit_code": 3},
        {"outcome": Outcome.TIMEOUT, "exit_code": 124},
        {"outcome": Outcome.CANCELLED, "exit_code": 130},
        {"truncation": Truncation(truncated=True)},
        {"truncation": Truncation(files=[{"path": "stdout.txt", "bytes": 1}])},
        {"late_outputs": [stream("late")]},
    ],
    ids=str,
)
def test_any_other_is_not(changes: dict[str, Any]) -> None:
    assert not _is_complete(result(stream("x"), **changes))


def test_an_error_is_not_kept() -> None:
    assert not _is_complete(result(error("wrong")))
