"""An interrupt at each place, one after the other, between a cell's first line and its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.kernels.test_protocol import Cell, Client

# Counts the lines that the main thread comes to, in whatever code, from where it is armed.
_PROGRAM = '''
import signal as _signal, sys as _sys
class Sweep:
    left, place = 0, ""
    def arm(self, number):
        """Have the process interrupted at the line of this number."""
        self.left, self.place = number, ""
        self.follow(self.trace, _sys._getframe(1))
    def disarm(self):
        self.follow(None, _sys._getframe(1))
        print(self.place)
    def follow(self, trace, frame):
        _sys.settrace(trace)
        while frame is not None:
            frame.f_trace, frame = trace, frame.f_back
    def trace(self, frame, event, _):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                code = frame.f_code
                self.place = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
                _sys.settrace(None)
                _signal.raise_signal(_signal.SIGINT)
        return self.trace
sweep = Sweep()
'''

CELLS = {
    "nothing": "sweep.arm({n})",
    "a print": "sweep.arm({n}); print('ready')",
    "a value": "sweep.arm({n}); 5",
    "a display": "sweep.arm({n}); display({{'text/plain': '1'}}, raw=True)",
    "an await": "import asyncio\nsweep.arm({n})\nawait asyncio.sleep(0)\nprint(2)",
    # The interrupt is a second one: IPython shows the first at that moment.
    "an interrupt": "sweep.arm({n}); raise KeyboardInterrupt",
    "an error": "sweep.arm({n}); 1 / 0",
}


@dataclass(frozen=True)
class Place:
    """Where an interrupt came, and how the cell ended."""

    cell: str
    number: int
    where: str
    status: str
    fault: str


def sweep(client: Client, cell: str, numbers: Iterable[int]) -> list[Place]:
    """Interrupt the cell at each of `numbers`, up to the first that is behind its end."""
    client.run(_PROGRAM)
    places = []
    for number in numbers:
        msg_id = client.execute(CELLS[cell].format(n=number), stop_on_error=False)
        ended = client.finish(msg_id)
        where = client.run("sweep.disarm()").text().strip()
        client.iopub.clear()
        if not where:
            break
        status = ended.reply.content["status"]
        places.append(Place(cell, number, where, status, fault_of(ended)))
    return places


def fault_of(cell: Cell) -> str:
    """What is wrong with the answers to a cell: a failed one has published that exactly once."""
    reply = cell.reply.content
    published = [message.content["ename"] for message in cell.all("error")]
    if reply["status"] == "error":
        expected = [reply["ename"]]
    elif reply["status"] == "ok":
        # An error of a callback, such as one that draws, is shown and fails no cell.
        expected = []
    else:
        return f"status {reply['status']}"
    return "" if published == expected else f"published {published}, replied {expected}"
