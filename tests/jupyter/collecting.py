"""A collector of outputs with what it told, and the simplest reader of that."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

from kernelagent.jupyter.events import (
    Clear,
    Display,
    Event,
    Failure,
    Output,
    Text,
    Update,
    read_event,
)
from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import Budget, OutputCollector, Truncation
from kernelagent.workspace.spill import Spill

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Collected:
    """A collector on a spill in `workspace`, with the events that it told."""

    def __init__(
        self, workspace: Path, *, size: int = 1 << 20, items: int = 100, spill: int = 1 << 30
    ) -> None:
        self.events: list[Event] = []
        self.spill = Spill(workspace, "exec_1", spill)
        # A reader may see an event long after it was told: nothing may change it meanwhile.
        self._told: list[tuple[Event, Event]] = []
        self.collector = OutputCollector(Budget(size, items), self.spill, self._emit)

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._told.append((event, copy.deepcopy(event)))

    def take(self, msg_type: str, **content: Any) -> None:
        event = read_event(Message(msg_type, "id", "parent", content))
        if event is not None:
            self.collector.take(event)

    def print(self, text: str, name: str = "stdout") -> None:
        self.take("stream", name=name, text=text)

    def show(self, display_id: str | None = None, **data: Any) -> None:
        transient = {"display_id": display_id} if display_id else {}
        bundle = {mime.replace("_", "/"): value for mime, value in data.items()}
        self.take("display_data", data=bundle, metadata={}, transient=transient)

    def update(self, display_id: str, **data: Any) -> None:
        bundle = {mime.replace("_", "/"): value for mime, value in data.items()}
        transient = {"display_id": display_id}
        self.take("update_display_data", data=bundle, metadata={}, transient=transient)

    def fail(self, ename: str = "ValueError", traceback: list[str] | None = None) -> None:
        self.take("error", ename=ename, evalue="wrong", traceback=traceback or [])

    @property
    def outputs(self) -> list[Output]:
        return self.collector.outputs

    @property
    def text(self) -> str:
        return "".join(output.get("text", "") for output in self.outputs)

    @property
    def plain(self) -> list[str]:
        """The text/plain of everything shown."""
        return [output["data"]["text/plain"] for output in self.outputs if "data" in output]

    async def close(self) -> Truncation:
        """What was cut, once all files are written."""
        await self.spill.close()
        for event, as_told in self._told:
            assert event == as_told
        return self.collector.truncation


def replayed(events: list[Event]) -> list[Output]:
    """What a reader shows who follows `events` in the simplest way."""
    shown: list[tuple[Output, str | None]] = []
    pending = False
    for event in events:
        if isinstance(event, Text | Display | Failure) and pending:
            shown, pending = [], False
        match event:
            case Text(name, text):
                if shown and shown[-1][0].get("name") == name:
                    shown[-1][0]["text"] += text
                else:
                    shown.append(({"output_type": "stream", "name": name, "text": text}, None))
            case Display(output, display_id):
                shown.append((dict(output), display_id))
            case Failure(output):
                shown.append((output, None))
            case Update(display_id, data, metadata):
                for output, shown_as in shown:
                    if shown_as == display_id:
                        output |= {"data": data, "metadata": metadata}
            case Clear(wait):
                pending = wait
                shown = shown if wait else []
    return [output for output, _ in shown]
