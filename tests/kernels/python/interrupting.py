"""Cells that are interrupted at random moments, and what must be true of them then."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random

from tests.kernels.python.protocol import INTERRUPTED, WAITS, Cell, Client
from tests.kernels.python.sweeping import fault_of

# Short cells, with what they print: they can end before the interrupt comes.
SHORT = {
    "pass": "",
    "print(1)": "1\n",
    "import os; x = os.write(1, b'1\\n')": "1\n",
    "import asyncio; await asyncio.sleep(0); print(1)": "1\n",
}
# An interrupt of these meets their error being shown.
FAILING = {
    "1 / 0": "ZeroDivisionError",
    "import asyncio; await asyncio.sleep(0); 1 / 0": "ZeroDivisionError",
    "x ==== 2": "SyntaxError",
    "raise ExceptionGroup('both', [ValueError(1)])": "ExceptionGroup",
}


@dataclass
class Moments:
    """How long after its request a short cell is interrupted: about where it ends.

    Whoever ends before is interrupted earlier the next time, and the other way round.
    """

    chance: Random
    _most: dict[str, float] = field(default_factory=dict)

    def wait(self, code: str) -> None:
        time.sleep(self.chance.uniform(0, self._most.setdefault(code, 0.003)))

    def learn(self, code: str, *, ended: bool) -> None:
        self._most[code] = min(max(self._most[code] * (0.8 if ended else 1.25), 1e-4), 0.1)


@dataclass(frozen=True)
class Ended:
    """A cell that was interrupted, how often, and what is wrong with its answers."""

    cell: Cell
    sent: int
    faults: list[str]

    @property
    def met(self) -> bool:
        """Whether it was not over when it was interrupted."""
        return self.cell.reply.content.get("ename") in INTERRUPTED


def interrupt_waiting(client: Client, name: str, chance: Random, times: int = 1) -> Ended:
    """Interrupt one of WAITS at once and, maybe, again while its end is shown."""
    msg_id = client.start(WAITS[name], stop_on_error=False)
    client.interrupt()
    sent = 1 + _interrupt_again(client, chance, times - 1)
    cell = client.finish(msg_id)
    faults = _faults_of(cell)
    # IPython's printer can turn an interrupt into another exception.
    if cell.reply.content["status"] != "error" or (
        name != "expression" and cell.reply.content["ename"] != "KeyboardInterrupt"
    ):
        faults.append(f"{name} ended with {cell.reply.content}")
    if name == "printing":
        # The last line may want its end.
        lines = cell.text().split("\n")[1:-1]
        if lines != [str(number) for number in range(len(lines))]:
            faults.append(f"torn lines: {lines[-5:]}")
    return Ended(cell, sent, faults)


def interrupt_short(client: Client, code: str, moments: Moments, times: int = 1) -> Ended:
    """Interrupt a short cell about when it ends."""
    msg_id = client.execute(code, stop_on_error=False)
    moments.wait(code)
    client.interrupt()
    sent = 1 + _interrupt_again(client, moments.chance, times - 1)
    cell = client.finish(msg_id)
    reply = cell.reply.content
    faults = _faults_of(cell)
    moments.learn(code, ended=reply.get("ename") not in INTERRUPTED)
    if code in FAILING:
        names: tuple[str, ...] = (FAILING[code], *INTERRUPTED)
        if reply.get("ename") not in names:
            faults.append(f"{code} ended with {reply}")
    elif reply["status"] == "ok":
        if cell.text() != SHORT[code]:
            faults.append(f"{code} printed {cell.text()!r}")
    elif reply["ename"] not in INTERRUPTED:
        faults.append(f"{code} ended with {reply}")
    return Ended(cell, sent, faults)


def _interrupt_again(client: Client, chance: Random, times: int) -> int:
    for _ in range(times):
        # Much of it is far below what a sleep can be.
        time.sleep(chance.choice((0, 0.0001, 0.001, 0.01, 0.03)) * chance.random())
        client.interrupt()
    return times


def _faults_of(cell: Cell) -> list[str]:
    fault = fault_of(cell)
    return [fault] if fault else []
