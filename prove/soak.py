"""Two thousand sessions, used, branched, interrupted and killed at random, leave nothing behind.

Ten at a time run cells, plot, are branched, restored, interrupted, killed, run out of time, lose
their caller, are deleted while they run, expire. Each answer is checked. Descriptors, threads,
memory, processes, files and memory groups are counted after the first hundred and at the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.clients import HttpError
from bench.leftovers import NOTE, at_rest, left_over
from bench.servers import Server
from prove.report import Report
from tests.servers import serving

LIMIT = 1200

_COUNT = 2000
_AT_ONCE = 10
_POOL = 1
_WARM_UP = 100
_MOST_ACTIONS = 3
# Seconds: of a run that is to end by its limit; until a session that is left alone ends; until a
# run must have begun; for all that has been asked for to be done.
_SHORT = 0.2
_EXPIRY = 5.0
_BEGIN = 10.0
_PATIENCE = 60.0
_NOTHING = {"sessions": 0.0, "kernels leased": 0.0}
_LOOPS = (
    "while True: pass",
    "import time\nwhile True: time.sleep(0.01)",
    "import time\nwhile True: print('x'); time.sleep(0.001)",
)


_PLOT = "import matplotlib.pyplot as plt\nplt.plot(range(1000)); plt.show()"


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="ka-soak-") as directory:
        with running(Path(directory)) as server:
            fresh = settled(server)
            # Whatever comes once and stays must be there before.
            warm = live(server, range(-_WARM_UP, 0), report.seed, report.say)
            before = settled(server)
            first = live(server, range(_COUNT // 2), report.seed, report.say)
            halfway = settled(server, before)
            second = live(server, range(_COUNT // 2, _COUNT), report.seed, report.say)
            after = settled(server, before)
        left = left_over(server, before, after)
    done = first.actions + second.actions
    report.say(", ".join(f"{number} {action}" for action, number in done.most_common()))
    for what, number in before.items():
        moments = (fresh[what], number, halfway[what], after[what])
        report.say(f"{what}: {', '.join(f'{moment:g}' for moment in moments)}")
    report.say(f"(fresh, after {_WARM_UP}, {_COUNT // 2} more, {_COUNT} more) {NOTE}")
    for complaint in (*warm.complaints, *first.complaints, *second.complaints):
        report.check(False, complaint)
    for what, more in left.items():
        report.figure(what, more, most=0)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Server]:
    """A server whose pool is full, and whose processes can be told by the directory's name."""
    settings = {
        "KERNELAGENT_POOL_IDLE": str(_POOL),
        "KERNELAGENT_RUNTIME_DIR": str(directory / "run"),
    }
    with serving(directory, **settings) as service:
        port = int(service.url.rpartition(":")[2])
        yield Server(port, service.token, service.process, directory)


def settled(server: Server, before: Mapping[str, float] = _NOTHING) -> dict[str, float]:
    """What the server holds, once that is no more than `before`, or it takes too long."""
    return at_rest(server, _POOL, before, patience=_PATIENCE)


@dataclass
class Lives:
    """What many sessions have done, and what went wrong."""

    actions: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)


def live(
    server: Server, numbers: range, seed: int, say: Callable[[str], None] = lambda _: None
) -> Lives:
    """Sessions with these numbers from their starts to their ends, ten at a time."""
    lives = Lives()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for start in range(0, len(numbers), _AT_ONCE):
            if start % 100 == 0:
                say(f"session {numbers[start]}")
            some = numbers[start : start + _AT_ONCE]
            for actions, complaint in threads.map(lambda n: _life(server, n, seed), some):
                lives.actions.update(actions)
                if complaint:
                    lives.complaints.append(complaint)
                    say(complaint)
    return lives


def _life(server: Server, number: int, seed: int) -> tuple[list[str], str]:
    """One session from its start to its end: what was done, and what went wrong."""
    chance = random.Random(f"{seed} {number}")  # noqa: S311 - nothing secret
    end = _choose(chance, _ENDS)
    done = []
    session = _Session(server, chance)
    try:
        session.open("/sessions", {"idle_timeout": _EXPIRY} if end == _EXPIRED else {})
        session.set()
        for _ in range(chance.randint(1, _MOST_ACTIONS)):
            action = _choose(chance, _WEIGHTS)
            done.append(action)
            _ACTIONS[action](session)
            session.check()
        done.append(end)
        if end == _DELETED_BUSY:
            session.begin()
            session.control.request("DELETE", session.path)
            _expect("cancelled", session.client.receive()["outcome"])
        elif end == _DELETED:
            session.delete()
        session.end_branches()
    except (_WrongAnswer, HttpError, OSError) as error:
        session.abandon()
        return done, f"session {number} ({', '.join(done)}): {error}"
    finally:
        session.close()
    return done, ""


class _WrongAnswer(RuntimeError):
    """The service did not answer what it was asked for."""


def _expect(wanted: object, got: object) -> None:
    if got != wanted:
        raise _WrongAnswer(f"{got!r:.300} instead of {wanted!r:.300}")


class _Session:
    """A session, the value that its variable `kept` should have, and two connections."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        self.client = server.client()
        self.control = server.client()
        self.path = ""
        self.branches: list[_Session] = []
        self._value = 0

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.control.request("GET", self.path)
        return facts

    def open(self, path: str, content: Mapping[str, Any]) -> None:
        """Have it made by `path`."""
        made = self.control.request("POST", path, content)
        self.path = f"/sessions/{made['id']}"

    def run(self, code: str, **limits: Any) -> dict[str, Any]:
        self._send(code, **limits)
        answer: dict[str, Any] = self.client.receive()
        return answer

    def begin(self) -> None:
        """Start a loop without end; returns when it runs."""
        self._send(self.chance.choice(_LOOPS), timeout=60)
        deadline = time.monotonic() + _BEGIN
        while self.facts["state"] != "busy":
            if time.monotonic() > deadline:
                raise _WrongAnswer("a run did not begin")
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0, 0.02))

    def set(self) -> None:
        """Give `kept` a new value."""
        self._value = self.chance.randrange(2**32)
        answer = self.run(f"kept = {self._value}")
        _expect("ok", "ok" if answer["success"] else _told(answer))

    def check(self) -> None:
        """Whether `kept` has its value."""
        answer = self.run("kept")
        _expect(str(self._value), answer.get("result") or _told(answer))

    def branch(self) -> _Session:
        branch = _Session(self.server, self.chance)
        self.branches.append(branch)
        branch.open(f"{self.path}/branch", {})
        branch._value = self._value
        return branch

    def checkpoint_and_restore(self) -> None:
        """Back to the value of now, by way of another one."""
        value = self._value
        made = self.control.request("POST", f"{self.path}/checkpoints", {})
        self.set()
        self.control.request("POST", f"{self.path}/restore", {"checkpoint_id": made["id"]})
        self._value = value
        # The other half ends with the session.
        if self.chance.random() < 0.5:
            self.control.request("DELETE", f"{self.path}/checkpoints/{made['id']}")

    def delete(self) -> None:
        self.control.request("DELETE", self.path)

    def end_branches(self) -> None:
        """Branches outlive what they were branched from."""
        while self.branches:
            branch = self.branches[-1]
            branch.check()
            branch.delete()
            branch.close()
            self.branches.pop()

    def abandon(self) -> None:
        """Delete whatever is still there, after something went wrong."""
        if not self.path:
            return
        for branch in self.branches:
            branch.abandon()
            branch.close()
        with (
            contextlib.suppress(HttpError, OSError),
            contextlib.closing(self.server.client()) as client,
        ):
            client.request("DELETE", self.path)

    def close(self) -> None:
        self.client.close()
        self.control.close()

    def leave(self) -> None:
        """Close the connection of the runs and open another one."""
        self.client.close()
        self.client = self.server.client()

    def _send(self, code: str, **limits: Any) -> None:
        session = self.path.rpartition("/")[2]
        self.client.send("POST", "/execute", {"code": code, "session_id": session, **limits})


def _run_a_cell(session: _Session) -> None:
    number = session.chance.randrange(1000)
    answer = session.run(f"print({number})\n{number} + 1")
    _expect((f"{number}\n", str(number + 1)), (answer["stdout"], answer.get("result")))


def _plot(session: _Session) -> None:
    answer = session.run(_PLOT)
    _expect(["image/png"], [output["type"] for output in answer["rich_outputs"]])


def _branch(session: _Session) -> None:
    branch = session.branch()
    branch.check()
    branch.set()
    session.chance.choice((_run_a_cell, _plot, _interrupt, _kill))(branch)
    # Half of them outlive their parent.
    if session.chance.random() < 0.5:
        branch.check()
        branch.delete()
        branch.close()
        session.branches.remove(branch)


def _interrupt(session: _Session) -> None:
    session.begin()
    answer = session.control.request("POST", f"{session.path}/interrupt")
    _expect(True, answer["interrupted"])
    ended = session.client.receive()
    _expect(("interrupted", False), (ended["outcome"], ended["state_lost"]))


def _kill(session: _Session) -> None:
    busy = session.chance.random() < 0.5
    if busy:
        session.begin()
    facts = session.facts
    os.kill(facts["pid"], signal.SIGKILL)
    if busy:
        _expect_death(session.client.receive())
    answer = session.run("'kept' in globals()")
    if answer["state_lost"] and not busy:
        # The run was quicker than the news.
        _expect_death(answer)
        answer = session.run("'kept' in globals()")
    _expect("False", answer.get("result") or _told(answer))
    _expect(facts["generation"] + 1, session.facts["generation"])
    session.set()


def _expect_death(answer: dict[str, Any]) -> None:
    # On a machine where others run out of memory meanwhile, this may be taken for the cause.
    if answer["outcome"] not in ("kernel_died", "out_of_memory"):
        _expect("kernel_died", _told(answer))


def _told(answer: dict[str, Any]) -> str:
    """An answer in short, for people."""
    why = answer["message"] or answer["stderr"][-100:]
    return " / ".join([answer["outcome"], why, *answer["notes"]])


def _run_out_of_time(session: _Session) -> None:
    answer = session.run(session.chance.choice(_LOOPS), timeout=_SHORT)
    _expect(("timeout", False), (answer["outcome"], answer["state_lost"]))


def _leave(session: _Session) -> None:
    session.begin()
    session.leave()


_ACTIONS: dict[str, Callable[[_Session], None]] = {
    "cells": _run_a_cell,
    "plots": _plot,
    "branches": _branch,
    "restores": _Session.checkpoint_and_restore,
    "interrupts": _interrupt,
    "kills": _kill,
    "runs out of time": _run_out_of_time,
    "callers gone": _leave,
}
_WEIGHTS = {
    "cells": 3,
    "plots": 2,
    "branches": 3,
    "restores": 2,
    "interrupts": 2,
    "kills": 2,
    "runs out of time": 1,
    "callers gone": 1,
}
_DELETED = "deleted at rest"
_DELETED_BUSY = "deleted while running"
_EXPIRED = "left to expire"
_ENDS = {_DELETED: 6, _DELETED_BUSY: 2, _EXPIRED: 1}


def _choose(chance: random.Random, weights: Mapping[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]
