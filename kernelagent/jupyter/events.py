"""What happens in a run: the kernel's messages as events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kernelagent.jupyter.messages import Message

# One in nbformat shape: stream, display_data, execute_result or error.
Output = dict[str, Any]
MimeBundle = dict[str, Any]

# No MIME type is longer.
_LONGEST_MIME = 255


@dataclass(slots=True)
class Begun:
    """The kernel has taken the code."""

    execution_count: int | None


@dataclass(slots=True)
class Prompt:
    """The code asks its user for a line."""

    prompt: str
    password: bool


@dataclass(slots=True)
class Text:
    """A piece of stdout or stderr."""

    name: str
    text: str


@dataclass(slots=True)
class Display:
    """Something shown: `output` is a display_data or execute_result."""

    output: Output
    display_id: str | None = None


@dataclass(slots=True)
class Update:
    """New data for everything shown under `display_id`."""

    display_id: str
    data: MimeBundle
    metadata: dict[str, Any]


@dataclass(slots=True)
class Clear:
    """What was shown so far is withdrawn; with `wait`, only when something new comes."""

    wait: bool


@dataclass(slots=True)
class Failure:
    """The code raised; `output` is an error output."""

    output: Output


Event = Begun | Prompt | Text | Display | Update | Clear | Failure


def read_event(message: Message) -> Event | None:
    """Return what an iopub message says; None if that is nothing about a run.

    Code can send messages of any shape, so nothing about them is taken for granted.
    """
    content = message.content
    match message.type:
        case "stream":
            name = "stderr" if content.get("name") == "stderr" else "stdout"
            return Text(name, str(content.get("text", "")))
        case "display_data" | "execute_result":
            return _read_display(message.type, content)
        case "update_display_data":
            display_id = _display_id(content)
            if display_id is None:
                return None
            shown = _shown_data(content)
            return Update(display_id, shown["data"], shown["metadata"])
        case "clear_output":
            return Clear(bool(content.get("wait")))
        case "error":
            return read_failure(content)
        case "execute_input":
            return Begun(content.get("execution_count"))
    return None


def read_failure(content: dict[str, Any]) -> Failure:
    """Return the error that a message of type `error`, or a reply of that status, tells of."""
    traceback = content.get("traceback")
    return Failure(
        {
            "output_type": "error",
            "ename": str(content.get("ename", "Error")),
            "evalue": str(content.get("evalue", "")),
            "traceback": list(map(str, traceback)) if isinstance(traceback, list) else [],
        }
    )


def _read_display(output_type: str, content: dict[str, Any]) -> Display:
    output: Output = {"output_type": output_type, **_shown_data(content)}
    if output_type == "execute_result":
        count = content.get("execution_count")
        output["execution_count"] = count if isinstance(count, int) else None
    return Display(output, _display_id(content))


def _display_id(content: dict[str, Any]) -> str | None:
    transient = content.get("transient")
    display_id = transient.get("display_id") if isinstance(transient, dict) else None
    return display_id if isinstance(display_id, str) else None


def _shown_data(content: dict[str, Any]) -> Output:
    data, metadata = content.get("data"), content.get("metadata")
    bundle = data if isinstance(data, dict) else {}
    return {
        "data": {mime: value for mime, value in bundle.items() if len(mime) <= _LONGEST_MIME},
        "metadata": metadata if isinstance(metadata, dict) else {},
    }
