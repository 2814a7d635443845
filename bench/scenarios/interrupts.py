"""Interrupts at random moments around the end of a cell."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.clients import HttpClient, HttpError
from bench.findings import OURS, Findings, Plan
from bench.samples import Samples
from bench.servers import Server, our_server, wait_for_pool

_SEED = 1
_LATEST = 0.003
_WARM_UP = 20
_CELL = f"pass, interrupted within {_LATEST * 1000:g} ms"
_NEXT = "the next run"
_KEPT = 123_456


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    count = plan.rounds(1000, 100)
    say("starting the server")
    with our_server() as server:
        trial = _Trial(server)
        trial.prepare()
        say(f"{count} interrupts")
        chance = random.Random(_SEED)  # noqa: S311 - nothing secret
        for number in range(count):
            trial.interrupt_a_cell(chance.uniform(0, _LATEST))
            trial.run_the_next(number)
        generation = trial.generation()
    findings.add(_CELL, "ms", {OURS: Samples(trial.cells).scaled(1000)})
    findings.add(_NEXT, "ms", {OURS: Samples(trial.nexts).scaled(1000)})
    ends = ", ".join(f"{number} {outcome}" for outcome, number in sorted(trial.ends.items()))
    findings.notes.append(
        f"How the cells ended: {ends}. {trial.idle} interrupts came when nothing ran (any more)."
    )
    findings.notes += trial.complaints[:5]
    findings.expect_none(
        f"{count} interrupts around cell ends",
        "no lost reply, no dead session",
        trial.wrong | {"kernels lost": generation - 1},
    )
    return findings


class _Trial:
    """One session, a connection for its runs and one for the interrupts."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._runs: HttpClient = server.client()
        self._control = server.client()
        session = self._control.request("POST", "/sessions", {})["id"]
        self._path = f"/sessions/{session}"
        # A reply that is lost ends its run here.
        self._limits = {"session_id": session, "timeout": 10}
        self.cells: list[float] = []
        self.nexts: list[float] = []
        self.ends: Counter[str] = Counter()
        self.idle = 0
        self.wrong: Counter[str] = Counter()
        self.complaints: list[str] = []

    def prepare(self) -> None:
        """Warm the kernel, leave something in it, let the pool fill."""
        for _ in range(_WARM_UP):
            self._ask(f"kept = {_KEPT}")
        wait_for_pool(self._control, 1)

    def interrupt_a_cell(self, delay: float) -> None:
        """Run `pass`; the interrupt follows after `delay` seconds."""
        started = time.perf_counter()
        try:
            self._send("pass")
            time.sleep(delay)
            answer = self._control.request("POST", f"{self._path}/interrupt")
            self.idle += not answer["interrupted"]
            outcome = self._runs.receive()["outcome"]
        except (OSError, HttpError) as error:
            self._complain("replies lost", error)
            return
        self.cells.append(time.perf_counter() - started)
        self.ends[outcome] += 1
        if outcome not in ("ok", "interrupted"):
            self._complain("wrong outcomes", outcome)

    def run_the_next(self, number: int) -> None:
        """The run that follows must neither be hit nor find its state gone."""
        started = time.perf_counter()
        try:
            answer = self._ask(f"kept + {number}")
        except (OSError, HttpError) as error:
            self._complain("replies lost", error)
            return
        self.nexts.append(time.perf_counter() - started)
        if answer["outcome"] == "interrupted" or answer["stderr"].startswith("KeyboardInterrupt"):
            self._complain("next runs hit", answer["stderr"])
        elif answer.get("result") != str(_KEPT + number):
            self._complain("states lost", answer["stderr"] or answer["outcome"])

    def generation(self) -> int:
        """How many kernels the session has had."""
        return int(self._control.request("GET", self._path)["generation"])

    def _ask(self, code: str) -> dict[str, Any]:
        self._send(code)
        answer: dict[str, Any] = self._runs.receive()
        return answer

    def _send(self, code: str) -> None:
        self._runs.send("POST", "/execute", {"code": code, **self._limits})

    def _complain(self, what: str, why: object) -> None:
        self.wrong[what] += 1
        self.complaints.append(f"{what}: {str(why)[:300]}")
        self._runs.close()
        self._runs = self._server.client()
