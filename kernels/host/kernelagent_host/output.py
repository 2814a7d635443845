"""What a host prints, put together into messages: soon to be seen, and not too many."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable

# Bytes and seconds. What follows a pause is sent at once.
_LARGEST = 256 * 1024
_PAUSE = 0.02


class OutputBuffer:
    """Gathers stdout and stderr, in their order, and gives them to `send(name, text)`.

    Bytes that are no UTF-8 become U+FFFD; characters that were cut between two reads stay whole.
    """

    def __init__(self, send: Callable[[str, str], None]) -> None:
        self._send = send
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }
        self._name = ""
        self._pieces: list[str] = []
        self._size = 0
        self._sent_at = 0.0

    @property
    def due_in(self) -> float | None:
        """Seconds until `flush` is to be called; None if nothing waits."""
        if not self._pieces:
            return None
        return max(self._sent_at + _PAUSE - time.monotonic(), 0.0)

    def add(self, name: str, data: bytes) -> None:
        """Take `data` of stream `name`."""
        text = self._decoders[name].decode(data)
        if not text:
            return
        if name != self._name:
            self.flush()
            self._name = name
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= _LARGEST or time.monotonic() >= self._sent_at + _PAUSE:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if not self._pieces:
            return
        text = "".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._send(self._name, text)
        self._sent_at = time.monotonic()

    def finish(self) -> None:
        """Send all, cut characters too: a run has ended."""
        for name in self._decoders:
            rest = self._decoders[name].decode(b"", final=True)
            if rest:
                if name != self._name:
                    self.flush()
                    self._name = name
                self._pieces.append(rest)
        self.flush()
        # The first output of the next run is to be seen at once.
        self._sent_at = 0.0
