"""From the kernel's messages to outputs in nbformat shape, within a budget."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.spill import Spill

Output = dict[str, Any]
MimeBundle = dict[str, Any]

# An error is never dropped, but its traceback can be made arbitrarily long.
_LONGEST_TRACEBACK = 256 * 1024

_SUFFIXES = {
    "application/json": "json",
    "application/pdf": "pdf",
    "image/gif": "gif",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "text/html": "html",
    "text/latex": "tex",
    "text/markdown": "md",
    "text/plain": "txt",
}
_BASE64_PREFIXES = ("image/", "audio/", "video/", "application/pdf", "application/octet-stream")


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


Event = Text | Display | Update | Clear | Failure


@dataclass(slots=True)
class Budget:
    """What of one run's output stays in its answer."""

    bytes: int
    items: int


@dataclass(slots=True)
class Truncation:
    """What was cut from an answer, in true numbers; all zero if nothing was."""

    truncated: bool = False
    total_bytes: int = 0
    kept_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    displays: int = 0
    kept_displays: int = 0
    lost_bytes: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Stream:
    name: str
    parts: list[str]

    def render(self) -> Output:
        return {"output_type": "stream", "name": self.name, "text": "".join(self.parts)}


class OutputCollector:
    """Takes the iopub messages of one run and keeps what they show.

    Streams are merged, display ids updated, clear_output honoured. What exceeds the budget goes to
    `spill`, and a marker in its place names the file. `emit` sees each kept piece once, in order.
    """

    def __init__(self, budget: Budget, spill: Spill, emit: Callable[[Event], None]) -> None:
        self._budget = budget
        self._spill = spill
        self._emit = emit
        self._items: list[_Stream | Output] = []
        self._displays: dict[str, list[Output]] = {}
        self._foreign_updates: dict[str, Update] = {}
        self._clear_pending = False
        self._cut: set[str] = set()
        self._kept = 0
        self._kept_displays = 0
        self._spilled_displays = 0
        self._facts = Truncation()
        self.error: Output | None = None

    @property
    def outputs(self) -> list[Output]:
        """What is shown now, in nbformat shape."""
        return [item.render() if isinstance(item, _Stream) else item for item in self._items]

    @property
    def updates(self) -> list[Update]:
        """New data for what earlier runs have shown."""
        return list(self._foreign_updates.values())

    @property
    def truncation(self) -> Truncation:
        """What was cut; final once the spill is closed."""
        facts = self._facts
        facts.kept_bytes = self._kept
        facts.kept_displays = self._kept_displays
        facts.lost_bytes = self._spill.lost
        facts.files = [
            {"path": str(file.path), "bytes": file.bytes}
            for file in self._spill.files.values()
            if file.bytes
        ]
        return facts

    def take(self, message: Message) -> None:
        """Take one message; types that show nothing are ignored."""
        content = message.content
        match message.type:
            case "stream":
                self._take_stream(str(content.get("name", "stdout")), str(content.get("text", "")))
            case "display_data" | "execute_result":
                self._take_display(message.type, content)
            case "update_display_data":
                self._take_update(content)
            case "clear_output":
                self._take_clear(bool(content.get("wait")))
            case "error":
                self._take_error(content)

    def add_text(self, name: str, text: str) -> None:
        """Add a sentence of our own to a stream, whatever the budget says."""
        self._append_text(name, text)

    def _take_stream(self, name: str, text: str) -> None:
        if not text:
            return
        self._clear_if_pending()
        size = _size(text)
        self._facts.total_bytes += size
        if name == "stderr":
            self._facts.stderr_bytes += size
        else:
            self._facts.stdout_bytes += size
        room = self._budget.bytes - self._kept
        if name not in self._cut and size <= room:
            self._kept += size
            self._append_text(name, text)
            return
        data = text.encode("utf-8", "replace")
        head = b"" if name in self._cut else _whole_characters(data[: max(room, 0)])
        if head:
            self._kept += len(head)
            self._append_text(name, head.decode())
        path = self._spill.write(f"{name}.txt", data[len(head) :])
        if name not in self._cut:
            self._cut.add(name)
            self._facts.truncated = True
            self._append_text(name, _stream_marker(name, path))

    def _append_text(self, name: str, text: str) -> None:
        last = self._items[-1] if self._items else None
        if isinstance(last, _Stream) and last.name == name:
            last.parts.append(text)
        else:
            self._items.append(_Stream(name, [text]))
        self._emit(Text(name, text))

    def _take_display(self, output_type: str, content: dict[str, Any]) -> None:
        self._clear_if_pending()
        output: Output = {
            "output_type": output_type,
            "data": _bundle(content),
            "metadata": content.get("metadata") or {},
        }
        if output_type == "execute_result":
            output["execution_count"] = content.get("execution_count")
        display_id = (content.get("transient") or {}).get("display_id")
        self._facts.displays += 1
        if self._facts.displays - self._spilled_displays > self._budget.items:
            self._spilled_displays += 1
            self._spill_bundle(output["data"])
            if "displays" not in self._cut:
                self._cut.add("displays")
                self._append_text(
                    "stderr",
                    f"\n[kernelagent: more than {self._budget.items} displays; the rest is in "
                    f"{self._spill.directory}]\n",
                )
            return
        self._fit(output)
        self._items.append(output)
        self._kept_displays += 1
        if isinstance(display_id, str):
            self._displays.setdefault(display_id, []).append(output)
            self._emit(Display(output, display_id))
        else:
            self._emit(Display(output))

    def _take_update(self, content: dict[str, Any]) -> None:
        display_id = (content.get("transient") or {}).get("display_id")
        if not isinstance(display_id, str):
            return
        data, metadata = _bundle(content), content.get("metadata") or {}
        update = Update(display_id, data, metadata)
        shown = self._displays.get(display_id)
        if shown is None:
            before = self._foreign_updates.pop(display_id, None)
            if before is not None:
                self._kept -= _bundle_size(before.data)
            holder: Output = {"data": data, "metadata": metadata}
            self._fit(holder)
            update = Update(display_id, holder["data"], holder["metadata"])
            self._foreign_updates[display_id] = update
        else:
            for output in shown:
                self._kept -= _bundle_size(output["data"])
                output["data"], output["metadata"] = data, dict(metadata)
                self._fit(output)
            update = Update(display_id, shown[-1]["data"], shown[-1]["metadata"])
        self._emit(update)

    def _take_clear(self, wait: bool) -> None:
        if wait:
            self._clear_pending = True
        else:
            self._clear()
        self._emit(Clear(wait))

    def _clear_if_pending(self) -> None:
        if self._clear_pending:
            self._clear()

    def _clear(self) -> None:
        self._clear_pending = False
        self._items.clear()
        self._displays.clear()
        self._kept = sum(_bundle_size(update.data) for update in self._foreign_updates.values())
        self._kept_displays = 0
        self._spilled_displays = self._facts.displays
        # What comes now has room again; what was cut stays cut in the facts.
        self._cut.clear()

    def _take_error(self, content: dict[str, Any]) -> None:
        self._clear_if_pending()
        traceback = _bounded_traceback([str(line) for line in content.get("traceback") or []])
        output: Output = {
            "output_type": "error",
            "ename": str(content.get("ename", "Error")),
            "evalue": _shortened(str(content.get("evalue", "")), _LONGEST_TRACEBACK),
            "traceback": traceback,
        }
        self._kept += sum(map(len, traceback))
        self._facts.total_bytes += sum(map(len, traceback))
        self._items.append(output)
        self.error = output
        self._emit(Failure(output))

    def _fit(self, output: Output) -> None:
        """Count `output`, or replace its data by a marker if the budget has no room for it."""
        size = _bundle_size(output["data"])
        self._facts.total_bytes += size
        if self._kept + size <= self._budget.bytes:
            self._kept += size
            return
        files = self._spill_bundle(output["data"])
        names = ", ".join(f"{file['mime']} in {file['path']}" for file in files)
        text = (
            f"[kernelagent: {size} bytes over the output budget; {names}]"
            if files
            else f"[kernelagent: {size} bytes over the output budget were dropped]"
        )
        output["data"] = {"text/plain": text}
        output["metadata"] = {**output["metadata"], "kernelagent": {"spilled": files}}

    def _spill_bundle(self, bundle: MimeBundle) -> list[dict[str, Any]]:
        self._facts.truncated = True
        files = []
        for mime, value in bundle.items():
            data = _decoded(mime, value)
            lost = self._spill.lost
            name = f"{self._facts.displays:05d}.{_suffix(mime)}"
            if name in self._spill.files:
                name = f"{self._facts.displays:05d}-{len(self._spill.files)}.{_suffix(mime)}"
            path = self._spill.write(name, data)
            if path is not None and self._spill.lost == lost:
                files.append({"mime": mime, "path": str(path), "bytes": len(data)})
        return files


def _bundle(content: dict[str, Any]) -> MimeBundle:
    data = content.get("data")
    return data if isinstance(data, dict) else {}


def _bundle_size(bundle: MimeBundle) -> int:
    return sum(
        len(value) if isinstance(value, str) else _json_size(value) for value in bundle.values()
    )


def _json_size(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:
        # Integers beyond 64 bits, which a kernel's own encoder can produce.
        return len(json.dumps(value))


def _decoded(mime: str, value: Any) -> bytes:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    if mime.startswith(_BASE64_PREFIXES) and mime != "image/svg+xml":
        try:
            return base64.b64decode(value, validate=False)
        except binascii.Error:
            return value.encode("utf-8", "replace")
    return value.encode("utf-8", "replace")


def _suffix(mime: str) -> str:
    return _SUFFIXES.get(mime, "json" if mime.endswith("json") else "dat")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _whole_characters(data: bytes) -> bytes:
    """`data` without the incomplete character at its end."""
    return data.decode("utf-8", "ignore").encode()


def _stream_marker(name: str, path: Path | None) -> str:
    where = f"the rest is in {path}" if path is not None else "the rest was not kept"
    return f"\n[kernelagent: {name} exceeds the output budget; {where}]\n"


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def _bounded_traceback(lines: list[str]) -> list[str]:
    if sum(map(len, lines)) <= _LONGEST_TRACEBACK:
        return lines
    return [_shortened("\n".join(lines), _LONGEST_TRACEBACK)]
