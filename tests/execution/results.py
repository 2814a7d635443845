"""Results made by hand, for tests of what becomes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kernelagent.jupyter.events import MimeBundle, Output
from kernelagent.jupyter.outputs import Truncation
from kernelagent.outcome import Outcome
from kernelagent.sessions.execution import Result


def display(data: MimeBundle, metadata: dict[str, Any] | None = None) -> Output:
    """A display_data output."""
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


def value(data: MimeBundle, count: int = 1) -> Output:
    """An execute_result output."""
    return {
        "output_type": "execute_result",
        "data": data,
        "metadata": {},
        "execution_count": count,
    }


def stream(text: str, name: str = "stdout") -> Output:
    """A stream output."""
    return {"output_type": "stream", "name": name, "text": text}


def error(*traceback: str) -> Output:
    """An error output."""
    return {
        "output_type": "error",
        "ename": "ValueError",
        "evalue": "wrong",
        "traceback": list(traceback),
    }


def result(*outputs: Output, **changes: Any) -> Result:
    """A result that shows `outputs`."""
    errors = [output for output in outputs if output["output_type"] == "error"]
    fields: dict[str, Any] = {
        "execution_id": "exec_1",
        "session_id": "default-python",
        "language": "python",
        "outcome": Outcome.ERROR if errors else Outcome.OK,
        "exit_code": 1 if errors else 0,
        "execution_count": 3,
        "message": "",
        "state_lost": False,
        "outputs": list(outputs),
        "updates": [],
        "late_outputs": [],
        "error": errors[-1] if errors else None,
        "truncation": Truncation(),
        "queued_seconds": 0.1234567,
        "seconds": 1.2345678,
        "finished_at": datetime(2024, 2, 29, 12, 0, 0, 500, tzinfo=UTC),
        "notes": [],
    }
    return Result(**fields | changes)
