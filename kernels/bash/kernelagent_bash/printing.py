"""What a shell prints, on its way to the listener."""

from __future__ import annotations

from pathlib import Path

from kernelagent_bash.output_filter import OutputFilter, Shown
from kernelagent_bash.shell import Shell
from kernelagent_bash.showing import Unshowable, mime_bundle
from kernelagent_host.host import Listener

_LONGEST_PROMPT = 1024


class Printer:
    """Passes output on, with what `display` has put aside in its place.

    While somebody can be asked, the beginning of a line waits a moment: it may be a prompt.
    """

    def __init__(self, listener: Listener, shell: Shell) -> None:
        self._listener = listener
        self._shell = shell
        mark = f"\x1b_kernelagent;{shell.mark};".encode()
        path = f"{shell.folder}/Cell In[".encode()
        self._filters = {name: OutputFilter(mark, path, b"Cell In[") for name in shell.outputs}
        self.holds = False
        self._held: dict[str, bytes] = {}
        self._aged = False
        self._asked: dict[str, bytes] = {}

    def take(self, name: str) -> None:
        """Pass on what was printed to that stream and has come."""
        self._pass_on(name, self._shell.outputs[name].read())

    def take_all(self) -> None:
        """Pass on all that was printed before this call."""
        for output in self._shell.outputs.values():
            output.mark()
        for name, output in self._shell.outputs.items():
            for data in output.read_all():
                self._pass_on(name, data)
            self._send(name, self._filters[name].rest())
        self.release()

    def release(self, *, but_fresh: bool = False) -> None:
        """Pass on beginnings of lines; not those that were not there at the last such call."""
        if but_fresh and self._held and not self._aged:
            self._aged = True
            return
        self._aged = False
        held, self._held = self._held, {}
        for name, data in held.items():
            self._listener.stream(name, data)

    def take_prompt(self) -> str:
        """The beginnings of lines that were held back: what a program asks."""
        for name in self._shell.outputs:
            self._send(name, self._filters[name].rest())
        said = self._shell.said()
        self._asked, self._held = {**self._held, "stderr": said + self._held.get("stderr", b"")}, {}
        return b"".join(self._asked.values()).decode("utf-8", "replace")

    def show_prompt(self) -> None:
        """Nobody has seen it: pass it on."""
        asked, self._asked = self._asked, {}
        for name, data in asked.items():
            if data:
                self._listener.stream(name, data)

    def _pass_on(self, name: str, data: bytes) -> None:
        for piece in self._filters[name].take(data):
            if isinstance(piece, Shown):
                self.release()
                self._show(piece.name)
            else:
                self._send(name, piece)

    def _send(self, name: str, data: bytes) -> None:
        if not data:
            return
        if not self.holds:
            self.release()
            self._listener.stream(name, data)
            return
        if self._held.keys() - {name}:
            self.release()
        data = self._held.pop(name, b"") + data
        end = data.rfind(b"\n") + 1
        if len(data) - end > _LONGEST_PROMPT:
            end = len(data)
        if end:
            self._listener.stream(name, data[:end])
        if end < len(data):
            self._held[name] = data[end:]
            self._aged = False

    def _show(self, name: str) -> None:
        folder = self._shell.folder / "shown"
        if not name.isalnum():
            return
        about = folder / f"{name}.about"
        try:
            kind, file = about.read_text(errors="replace").split("\0", 1)
            bundle = mime_bundle((folder / name).read_bytes(), Path(file).name, kind)
        except (OSError, ValueError, Unshowable) as error:
            self._listener.stream("stderr", f"display: {error}\n".encode())
        else:
            self._listener.display(bundle)
        finally:
            for path in (folder / name, about):
                path.unlink(missing_ok=True)
