"""An interrupt at each place, one after the other, between a cell's first line and its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from tests.kernels.python.protocol import Cell, Client

# Counts what the main thread comes to, in whatever code, from where it is armed: "line", "opcode"
# or "lineless" (instructions that belong to no line).
_PROGRAM = '''
import json as _json, signal as _signal, sys as _sys
class Sweep:
    left, number, event = 0, 0, "line"
    def __init__(self): self.places = {}
    def arm(self, number, event):
        """Have the process interrupted at the event of this number."""
        self.left, self.number, self.event = number, number, event
        self.places[number] = ""
        self.follow(self.trace, _sys._getframe(1))
    def disarm(self):
        self.follow(None, _sys._getframe(1))
    def tell(self):
        print(_json.dumps(self.places))
        self.places.clear()
    def follow(self, trace, frame):
        _sys.settrace(trace)
        while frame is not None:
            frame.f_trace = trace
            frame.f_trace_opcodes = trace is not None and self.event != "line"
            frame = frame.f_back
    def trace(self, frame, event, _):
        if event == "call" and self.event != "line":
            frame.f_trace_opcodes = True
        if event == self.event or (
            # An instruction of no line, such as the jump back of a loop.
            self.event == "lineless" and event == "opcode" and frame.f_lineno is None
        ):
            self.left -= 1
            if self.left == 0:
                code = frame.f_code
                place = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
                self.places[self.number] = place
                _sys.settrace(None)
                _signal.raise_signal(_signal.SIGINT)
        return self.trace
sweep = Sweep()
'''

# `ARM` is where counting begins.
CELLS = {
    "nothing": "ARM",
    "a print": "ARM; print('ready')",
    "a value": "ARM; 5",
    "a display": "ARM; display({'text/plain': '1'}, raw=True)",
    "an await": "import asyncio\nARM\nawait asyncio.sleep(0)\nprint(2)",
    "a system call": "import select\nARM\nprint('ready')\nselect.select([], [], [], 0.001)",
    # Nothing of IPython's catches what hits it.
    "a syntax error": "ARM\nexec('x ==== 2')",
    # The interrupt is a second one: IPython shows the first at that moment.
    "an interrupt": "ARM; raise KeyboardInterrupt",
    "an error": "ARM; 1 / 0",
    "an error in an await": "import asyncio\nARM\nawait asyncio.sleep(0)\n1 / 0",
}

_TOGETHER = 25


@dataclass(frozen=True)
class Place:
    """Where an interrupt came, and how the cell ended."""

    cell: str
    number: int
    where: str
    status: str
    fault: str


def sweep(
    client: Client, cell: str, numbers: Iterable[int], event: str = "line"
) -> Iterator[Place]:
    """Interrupt the cell at each of `numbers`, up to the first that is behind its end."""
    client.run(_PROGRAM)
    remaining = iter(numbers)
    while batch := list(islice(remaining, _TOGETHER)):
        endings = []
        for number in batch:
            code = CELLS[cell].replace("ARM", f"sweep.arm({number}, {event!r})")
            ended = client.run(code, stop_on_error=False)
            client.run("sweep.disarm()", silent=True)
            client.iopub.clear()
            endings.append((ended.reply.content["status"], fault_of(ended)))
        places = json.loads(client.run("sweep.tell()").text())
        for number, (status, fault) in zip(batch, endings, strict=True):
            where = places[str(number)]
            if not where:
                return
            yield Place(cell, number, where, status, fault)


def fault_of(cell: Cell) -> str:
    """What is wrong with the answers to a cell: a failed one has published that exactly once."""
    reply = cell.reply.content
    status = reply["status"]
    if status not in ("ok", "error"):
        return f"status {status}"
    keys = ("ename", "evalue", "traceback")
    expected = [{key: reply[key] for key in keys}] if status == "error" else []
    published = [message.content for message in cell.all("error")]
    return "" if published == expected else f"published {published}, replied {expected}"
