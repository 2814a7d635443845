"""What the kernel's messages say."""

from __future__ import annotations

from typing import Any

import pytest

from kernelagent.jupyter.events import (
    Begun,
    Clear,
    Display,
    Event,
    Failure,
    Text,
    Update,
    read_event,
)
from kernelagent.jupyter.messages import Message


def read(kind: str, **content: Any) -> Event | None:
    return read_event(Message(kind, "id", "parent", content))


def test_messages_become_events() -> None:
    assert read("execute_input", execution_count=3) == Begun(3)
    assert read("stream", name="stderr", text="x") == Text("stderr", "x")
    assert read("clear_output", wait=True) == Clear(True)
    shown = {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}}
    transient = {"display_id": "d"}
    bundle = {"text/plain": "x"}
    assert read("display_data", data=bundle, transient=transient) == Display(shown, "d")
    assert read("update_display_data", data=bundle, transient=transient) == Update("d", bundle, {})
    failure = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["t"]}
    assert read("error", ename="E", evalue="v", traceback=["t"]) == Failure(failure)


def test_what_is_about_no_run_is_no_event() -> None:
    assert read("comm_msg", data={}) is None
    assert read("status", execution_state="busy") is None
    # Nobody could know which display is meant.
    assert read("update_display_data", data={"text/plain": "x"}) is None


@pytest.mark.parametrize("junk", [None, 1, "x", [1], {"a": 1}])
def test_messages_of_any_shape_are_read(junk: Any) -> None:
    fields = ("name", "text", "data", "metadata", "transient", "ename", "evalue", "traceback")
    content = {**dict.fromkeys(fields, junk), "execution_count": junk, "wait": junk}
    for kind in ("stream", "display_data", "execute_result", "clear_output", "error"):
        assert read(kind, **content) is not None
