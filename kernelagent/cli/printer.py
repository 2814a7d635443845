"""Shows the messages of a streamed run on this terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernelagent.cli.terminal import Inline, inline_image
from kernelagent.notebooks.figures import IMAGE_SUFFIXES, image_bytes

if TYPE_CHECKING:
    from typing import TextIO

    from kernelagent.client import Message

# IPython's stand-ins for what only a browser shows say nothing on a terminal.
_STAND_IN = "<IPython.core.display."


class Printer:
    """Text goes where the code wrote it; of each thing shown, the form that suits a terminal."""

    def __init__(
        self, stem: str, *, directory: Path, protocol: Inline | None, save_inlined: bool
    ) -> None:
        self._stem = stem
        self._directory = directory
        self._protocol = protocol
        self._save_inlined = save_inlined
        self._images = 0
        self._at_line_start = True
        self._last: TextIO = sys.stdout
        self._parts: list[str] = []
        self._output: object = None
        self._is_shown = False
        self._spare = ""
        for stream in (sys.stdout, sys.stderr):
            # Half a character, or one that the terminal lacks, must not end the run.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")

    def show(self, message: Message) -> None:
        """Show one message; types that show nothing here are ignored."""
        kind = message["type"]
        if kind in ("rich", "update_display"):
            self._take_form(message)
            return
        self.finish()
        match kind:
            case "stdout":
                self._write(sys.stdout, message["data"])
            case "stderr":
                self._write(sys.stderr, message["data"])
            case "skipped":
                self.note(f"{message['bytes']} bytes of output came too fast and were left out")
            case "error" if "ename" not in message:
                # The traceback of code is on stderr already; this run was refused.
                self.note(str(message["message"]))

    def finish(self) -> None:
        """What was shown last has no further form: write the one that was kept back."""
        if not self._is_shown and self._spare:
            self._write_line(self._spare)
        self._output, self._is_shown, self._spare = None, False, ""

    def prompt(self, text: str) -> None:
        """Write a prompt, where it is seen even if stdout is a file."""
        self.finish()
        sys.stdout.flush()
        self._write(sys.stderr, text)

    def answered(self) -> None:
        """The answer has ended the prompt's line."""
        self._at_line_start = True

    def note(self, text: str) -> None:
        """Say something of our own."""
        self._end_line()
        self._write(sys.stderr, f"kernelagent: {text}\n")

    def _take_form(self, message: Message) -> None:
        """One form of a thing; its best form comes first, the others follow at once."""
        if message.get("part", 1) < message.get("parts", 1):
            self._parts.append(message["data"])
            return
        data = message["data"]
        if self._parts:
            data = "".join([*self._parts, data])
            self._parts.clear()
            if message.get("encoding") == "json":
                data = json.loads(data)
        output = (message["type"], message.get("output") or message.get("display_id"))
        if message["primary"] or output != self._output:
            self.finish()
            self._output = output
        if self._is_shown:
            return
        mime = message["mime"]
        if mime in IMAGE_SUFFIXES:
            self._is_shown = self._show_image(mime, data)
        elif mime in ("text/markdown", "text/latex") or (
            mime == "text/plain" and not str(data).startswith(_STAND_IN)
        ):
            self._write_line(str(data))
            self._is_shown = True
        elif not self._spare:
            self._spare = _text(mime, data)

    def _show_image(self, mime: str, data: Any) -> bool:
        content = image_bytes(mime, data)
        if content is None:
            return False
        self._images += 1
        drawing = inline_image(self._protocol, mime, content) if self._protocol else None
        if drawing is not None:
            self._write_line(drawing)
            if not self._save_inlined:
                return True
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{self._stem}-{self._images}{IMAGE_SUFFIXES[mime]}"
        path.write_bytes(content)
        self._write_line(str(path))
        return True

    def _write_line(self, text: str) -> None:
        self._end_line()
        self._write(sys.stdout, text if text.endswith("\n") else f"{text}\n")

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write(self._last, "\n")

    def _write(self, stream: TextIO, text: str) -> None:
        if text:
            stream.write(text)
            stream.flush()
            self._at_line_start = text.endswith("\n")
            self._last = stream


def _text(mime: str, data: Any) -> str:
    if isinstance(data, str) and mime.startswith("text/"):
        return data
    if mime == "application/json":
        return json.dumps(data, indent=2, ensure_ascii=False)
    return f"[{mime}]"
