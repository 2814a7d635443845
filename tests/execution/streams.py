"""What tests of streams ask for: a media type, and code that waits."""

from __future__ import annotations

from pathlib import Path

EVENT_STREAM = "text/event-stream"


def waiting(path: Path) -> str:
    """Code that waits until `path` exists."""
    return f"import pathlib, time\nwhile not pathlib.Path({str(path)!r}).exists(): time.sleep(0.01)"
