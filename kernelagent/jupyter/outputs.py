"""From the events of a run to outputs in nbformat shape, within a budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kernelagent.jupyter.events import (
    Clear,
    Display,
    Event,
    Failure,
    MimeBundle,
    Output,
    Text,
    Update,
)
from kernelagent.workspace.spill import Spill

# Errors have a place of their own beyond the budget; each can be made arbitrarily long.
_LONGEST_TRACEBACK = 256 * 1024
_LONGEST_NAME = 1024
_EXTRA_ERRORS = 10

# Streams that take turns make many small outputs: beyond so many, what holds each one counts too.
_FREE_ITEMS = 1000
_FRAME = 64

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
_NOT_KEPT = "the rest was not kept"
_BASE64_PREFIXES = ("image/", "audio/", "video/", "application/pdf", "application/octet-stream")


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
    # Holds many small pieces in less memory than a list of them.
    text: io.StringIO = field(default_factory=io.StringIO)

    def render(self) -> Output:
        return {"output_type": "stream", "name": self.name, "text": self.text.getvalue()}


@dataclass(slots=True)
class _Shown:
    output: Output
    # What of it counts towards the budget; a marker in its place does not.
    size: int = 0

    def render(self) -> Output:
        return self.output


class OutputCollector:
    """Takes the events of one run and keeps what they show.

    Streams are merged, display ids updated, clear_output honoured. What exceeds the budget goes to
    `spill`, and a marker in its place names the file. `emit` gets each event with what is kept of
    it, in order; its data does not change afterwards.
    """

    def __init__(
        self,
        budget: Budget,
        spill: Spill,
        emit: Callable[[Event], None],
    ) -> None:
        self._budget = budget
        self._spill = spill
        self._emit = emit
        self._items: list[_Stream | _Shown] = []
        self._displays: dict[str, list[_Shown]] = {}
        self._foreign_updates: dict[str, _Shown] = {}
        self._clear_pending = False
        self._cut: set[str] = set()
        self._kept = 0
        self._frames = 0
        self._extra_errors = 0
        self._kept_displays = 0
        self._spilled_displays = 0
        self._facts = Truncation()
        self.error: Output | None = None

    @property
    def outputs(self) -> list[Output]:
        """What is shown now, in nbformat shape."""
        return [item.render() for item in self._items]

    @property
    def updates(self) -> list[Update]:
        """New data for what earlier runs have shown."""
        return [
            Update(display_id, shown.output["data"], shown.output["metadata"])
            for display_id, shown in self._foreign_updates.items()
        ]

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

    def take(self, event: Event) -> None:
        """Take one event."""
        match event:
            case Text():
                self._take_stream(event.name, event.text)
            case Display():
                self._take_display(event)
            case Update():
                self._take_update(event)
            case Clear():
                self._take_clear(event)
            case Failure():
                self._take_error(event.output)
            case _:
                self._emit(event)

    def add_text(self, name: str, text: str) -> None:
        """Add a sentence of our own to a stream, whatever the budget says."""
        self._clear_if_pending()
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
        room = self._room
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

    @property
    def _room(self) -> int:
        return self._budget.bytes - self._kept - self._frames

    def _append_text(self, name: str, text: str) -> None:
        last = self._items[-1] if self._items else None
        if not (isinstance(last, _Stream) and last.name == name):
            last = _Stream(name)
            self._append(last)
        last.text.write(text)
        self._emit(Text(name, text))

    def _append(self, item: _Stream | _Shown) -> None:
        self._items.append(item)
        if len(self._items) > _FREE_ITEMS:
            self._frames += _FRAME

    def _take_display(self, event: Display) -> None:
        self._clear_if_pending()
        # Its own: the event belongs to others as well.
        output = dict(event.output)
        self._facts.displays += 1
        if self._facts.displays - self._spilled_displays > self._budget.items:
            self._spilled_displays += 1
            self._facts.total_bytes += _size_of(output)
            files = self._spill_bundle(output["data"])
            if "displays" not in self._cut:
                self._cut.add("displays")
                where = f"the rest is in {self._spill.directory}" if files else _NOT_KEPT
                self._append_text(
                    "stderr",
                    f"\n[kernelagent: more than {self._budget.items} displays; {where}]\n",
                )
            return
        shown = _Shown(output)
        self._fit(shown)
        self._append(shown)
        self._kept_displays += 1
        display_id = event.display_id
        if display_id is not None:
            self._displays.setdefault(display_id, []).append(shown)
        # A copy: a later update must not change what has been told before.
        self._emit(Display(dict(output), display_id))

    def _take_update(self, event: Update) -> None:
        display_id = event.display_id
        new = _Shown({"data": event.data, "metadata": event.metadata})
        targets = self._displays.get(display_id)
        if targets is None:
            if not self._take_foreign_update(display_id, new):
                return
        else:
            self._kept -= sum(target.size for target in targets)
            self._fit(new, copies=len(targets))
            for target in targets:
                target.output |= new.output
                target.size = new.size
        self._emit(Update(display_id, new.output["data"], new.output["metadata"]))

    def _take_foreign_update(self, display_id: str, new: _Shown) -> bool:
        """Keep an update of what this run has not shown; False if there are too many of them."""
        before = self._foreign_updates.pop(display_id, None)
        if before is not None:
            self._kept -= before.size
        elif len(self._foreign_updates) >= self._budget.items:
            self._facts.total_bytes += _size_of(new.output)
            self._spill_bundle(new.output["data"])
            return False
        self._fit(new)
        self._foreign_updates[display_id] = new
        return True

    def _take_clear(self, event: Clear) -> None:
        if event.wait:
            self._clear_pending = True
        else:
            self._clear()
        self._emit(event)

    def _clear_if_pending(self) -> None:
        if self._clear_pending:
            self._clear()

    def _clear(self) -> None:
        self._clear_pending = False
        self._items.clear()
        self._displays.clear()
        self._kept = sum(update.size for update in self._foreign_updates.values())
        self._kept_displays = 0
        self._spilled_displays = self._facts.displays
        # What comes now has room again; what was cut stays cut in the facts.
        self._cut.clear()
        self._frames = 0
        self._extra_errors = 0

    def _take_error(self, error: Output) -> None:
        self._clear_if_pending()
        output: Output = {
            "output_type": "error",
            "ename": _shortened(error["ename"], _LONGEST_NAME),
            "evalue": _shortened(error["evalue"], _LONGEST_TRACEBACK),
            "traceback": _bounded_traceback(error["traceback"]),
        }
        self.error = output
        text = "\n".join([output["ename"], output["evalue"], *output["traceback"]])
        size = _size(text)
        if size > self._room:
            self._extra_errors += 1
            if self._extra_errors > _EXTRA_ERRORS:
                self._take_stream("stderr", f"{text}\n")
                return
        self._kept += size
        self._facts.total_bytes += size
        self._append(_Shown(output, size))
        self._emit(Failure(output))

    def _fit(self, shown: _Shown, copies: int = 1) -> None:
        """Count `shown`, or replace its data by a marker if the budget has no room for it."""
        output = shown.output
        size = _size_of(output)
        self._facts.total_bytes += size * copies
        if size * copies <= self._room:
            self._kept += size * copies
            shown.size = size
            return
        files = self._spill_bundle(output["data"])
        names = ", ".join(f"{file['mime']} in {file['path']}" for file in files)
        text = (
            f"[kernelagent: {size} bytes over the output budget; {names}]"
            if files
            else f"[kernelagent: {size} bytes over the output budget were dropped]"
        )
        output["data"] = {"text/plain": text}
        output["metadata"] = {"kernelagent": {"spilled": files}}

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


def _size_of(output: Output) -> int:
    metadata = output["metadata"]
    return bundle_size(output["data"]) + (data_size(metadata) if metadata else 0)


def bundle_size(bundle: MimeBundle) -> int:
    """Bytes of `bundle` as an answer carries it."""
    return sum(len(mime) + data_size(data) for mime, data in bundle.items())


def data_size(data: Any) -> int:
    """Bytes of text, or of anything else as JSON."""
    return _size(data) if isinstance(data, str) else len(orjson.dumps(data))


def _decoded(mime: str, value: Any) -> bytes:
    if not isinstance(value, str):
        return orjson.dumps(value)
    if mime.startswith(_BASE64_PREFIXES) and mime != "image/svg+xml":
        try:
            return base64.b64decode(value, validate=False)
        except ValueError:
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
    where = f"the rest is in {path}" if path is not None else _NOT_KEPT
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
