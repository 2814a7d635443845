"""The messages of a streamed run: the same ones over WebSocket, NDJSON and SSE."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kernelagent.execution.rendering import facts, primary_type, slots, source, traceback_text
from kernelagent.jupyter.events import (
    Begun,
    Clear,
    Display,
    Event,
    Failure,
    MimeBundle,
    Output,
    Prompt,
    Text,
    Update,
)
from kernelagent.sessions.events import Skipped
from kernelagent.sessions.execution import Execution, Result
from kernelagent.text import utc_timestamp
from kernelagent.web.streaming import Message

# Published clients end a stream at a message of 1 MiB; some lose one beyond 64 KiB of text. Both
# mean bytes on the wire, where a character can take twelve.
_LONGEST_TEXT = 48 * 1024
_LONGEST_DATA = 512 * 1024
_LONGEST_PHRASE = 8 * 1024


class MessageMaker:
    """Turns the events of one run into messages, numbering what is shown."""

    def __init__(self, execution: Execution, *, rich: bool) -> None:
        self._execution = execution
        self._rich = rich
        self._shown = 0

    def messages(self, event: Event | Skipped) -> Iterator[Message]:
        """The messages of one event."""
        now = utc_timestamp()
        match event:
            case Begun():
                yield {
                    "type": "started",
                    "execution_id": self._execution.id,
                    "session_id": self._execution.session_id,
                    "execution_count": event.execution_count,
                    "timestamp": now,
                }
            case Text():
                kind = "stderr" if event.name == "stderr" else "stdout"
                for part in _pieces(event.text, _LONGEST_TEXT):
                    yield {"type": kind, "data": part, "timestamp": now}
            case Failure():
                yield from self.messages(Text("stderr", traceback_text(event.output)))
                yield {**_error(event.output), "timestamp": now}
            case Prompt():
                yield {
                    "type": "input_request",
                    "prompt": _phrase(event.prompt),
                    "password": event.password,
                    "execution_id": self._execution.id,
                    "timestamp": now,
                }
            case Skipped():
                yield {
                    "type": "skipped",
                    "bytes": event.bytes,
                    "message": "the client read too slowly; this much output was left out",
                    "timestamp": now,
                }
            case _ if not self._rich:
                return
            case Display():
                self._shown += 1
                head = {"type": "rich", "output": self._shown, "timestamp": now}
                if event.output["output_type"] == "execute_result":
                    head["execution_count"] = event.output.get("execution_count")
                if event.display_id is not None:
                    head["display_id"] = event.display_id
                yield from _bundle_messages(head, event.output["data"])
            case Update():
                head = {"type": "update_display", "display_id": event.display_id, "timestamp": now}
                yield from _bundle_messages(head, event.data)
            case Clear():
                yield {"type": "clear_output", "wait": event.wait, "timestamp": now}

    def result(self, result: Result) -> Message:
        """The message that says what the run came to; with the last data of each kind if small."""
        message = {"type": "result", **facts(result)}
        room = _LONGEST_DATA
        if result.late_outputs:
            size = _size(result.late_outputs)
            if size <= room:
                message["late_outputs"] = result.late_outputs
                room -= size
            else:
                message["notes"] = [*result.notes, "late output was too large for this stream"]
        if not self._rich:
            found = slots(result.outputs)
            if _size(found) <= room:
                return {**found, **message}
        else:
            text = slots(result.outputs).get("result")
            if text is not None and _size(text) <= _LONGEST_TEXT:
                message["result"] = text
        return message


def _error(output: Output) -> Message:
    sentence = _phrase(f"{output['ename']}: {output['evalue']}")
    traceback = output["traceback"]
    return {
        "type": "error",
        "error": sentence,
        "message": sentence,
        "code": "EXECUTION_ERROR",
        "ename": output["ename"],
        "evalue": _phrase(output["evalue"]),
        # It has just been sent as text on stderr.
        "traceback": traceback if _size(traceback) <= _LONGEST_DATA else [],
    }


def _bundle_messages(head: Message, bundle: MimeBundle) -> Iterator[Message]:
    primary = primary_type(bundle)
    label = source(bundle)
    # The form that shows most comes first.
    for mime in sorted(bundle, key=lambda mime: mime != primary):
        message = {
            **head,
            "mime": mime,
            "primary": mime == primary,
            "metadata": {"source": label},
        }
        data = bundle[mime]
        if _size(data) <= _LONGEST_DATA:
            yield {**message, "data": data}
            continue
        text = data if isinstance(data, str) else json.dumps(data)
        parts = list(_pieces(text, _LONGEST_DATA))
        for number, part in enumerate(parts, 1):
            yield {
                **message,
                "data": part,
                "part": number,
                "parts": len(parts),
                "encoding": "text" if isinstance(data, str) else "json",
            }


def _pieces(text: str, longest: int) -> Iterator[str]:
    """`text` in pieces that take at most `longest` bytes in a message."""
    for start in range(0, len(text), longest):
        piece = text[start : start + longest]
        if _size(piece) <= longest:
            yield piece
        else:
            half = len(piece) // 2
            yield from _pieces(piece[:half], longest)
            yield from _pieces(piece[half:], longest)


def _phrase(text: str) -> str:
    return text if len(text) <= _LONGEST_PHRASE else f"{text[:_LONGEST_PHRASE]} ..."


def _size(data: Any) -> int:
    """Bytes of `data` in a message, its quotes not counted."""
    return len(json.dumps(data)) - 2
