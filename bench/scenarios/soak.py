"""Thousands of sessions that are used, branched, interrupted and killed at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.clients import HttpError
from bench.findings import Findings, Plan
from bench.scenarios.leftovers import NOTE, at_rest, left_over
from bench.scenarios.variants import PLOT, WrongAnswer, expect
from bench.servers import Server, our_server

_SEED = 1
_AT_ONCE = 10
_POOL = 1
_WARM_UP = 100
_MOST_ACTIONS = 3
# Seconds: of a run that is to end by its limit; until a session that is left alone ends; until a
# run must have begun; for all that has been asked for to be done.
_SHORT = 0.2
_EXPIRY = 5.0
_BEGIN = 10.0
_PATIENCE = 20.0
_NOTHING = {"sessions": 0.0, "kernels leased": 0.0}
_LOOPS = (
    "while True: pass",
    "import time\nwhile True: time.sleep(0.01)",
    "import time\nwhile True: print('x'); time.sleep(0.001)",
)


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    count = plan.rounds(2000, 100)
    warm_up = min(_WARM_UP, count)
    done: Counter[str] = Counter()
    wrong: list[str] = []
    say("starting the server")
    with our_server(pool=_POOL) as server, ThreadPoolExecutor(_AT_ONCE) as threads:

        def live(first: int, last: int) -> None:
            for start in range(first, last, _AT_ONCE):
                say(f"session {start} of {count}")
                numbers = range(start, min(start + _AT_ONCE, last))
                for actions, complaint in threads.map(_life, [server] * len(numbers), numbers):
                    done.update(actions)
                    wrong.extend([complaint] if complaint else [])

        fresh = at_rest(server, _POOL, _NOTHING, patience=_PATIENCE)
        # Whatever comes once and stays must be there before.
        live(-warm_up, 0)
        done.clear()
        before = at_rest(server, _POOL, _NOTHING, patience=_PATIENCE)
        started = time.monotonic()
        live(0, count // 2)
        halfway = at_rest(server, _POOL, before, patience=_PATIENCE)
        live(count // 2, count)
        seconds = time.monotonic() - started
        after = at_rest(server, _POOL, before, patience=_PATIENCE)
    for what, number in before.items():
        moments = {
            "fresh": fresh[what],
            "before": number,
            f"after {count // 2}": halfway[what],
            f"after {count}": after[what],
        }
        findings.count(what, moments)
    actions = ", ".join(f"{number} {action}" for action, number in done.most_common())
    findings.notes += [
        f"{_AT_ONCE} sessions at a time, seed {_SEED}, in {seconds:.0f} s: {actions}.",
        f"Before: when it had seen {warm_up} other such sessions. From there on nothing may grow.",
        NOTE,
        *wrong[:5],
    ]
    findings.expect_none(
        f"{count} sessions used, branched, interrupted, killed at random",
        "leave nothing, answer right",
        left_over(server, before, after) | {"sessions that went wrong": len(wrong)},
    )
    return findings


def _life(server: Server, number: int) -> tuple[list[str], str]:
    """One session from its start to its end: what was done, and what went wrong."""
    chance = random.Random(f"{_SEED} {number}")  # noqa: S311 - nothing secret
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
            expect("cancelled", session.client.receive()["outcome"])
        elif end == _DELETED:
            session.delete()
        session.end_branches()
    except (WrongAnswer, HttpError, OSError) as error:
        session.abandon()
        return done, f"session {number} ({', '.join(done)}): {error}"
    finally:
        session.close()
    return done, ""


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
                raise WrongAnswer("a run did not begin")
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0, 0.02))

    def set(self) -> None:
        """Give `kept` a new value."""
        self._value = self.chance.randrange(2**32)
        answer = self.run(f"kept = {self._value}")
        expect("ok", "ok" if answer["success"] else _told(answer))

    def check(self) -> None:
        """Whether `kept` has its value."""
        answer = self.run("kept")
        expect(str(self._value), answer.get("result") or _told(answer))

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
    expect((f"{number}\n", str(number + 1)), (answer["stdout"], answer.get("result")))


def _plot(session: _Session) -> None:
    answer = session.run(PLOT)
    expect(["image/png"], [output["type"] for output in answer["rich_outputs"]])


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
    expect(True, answer["interrupted"])
    ended = session.client.receive()
    expect(("interrupted", False), (ended["outcome"], ended["state_lost"]))


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
    expect("False", answer.get("result") or _told(answer))
    expect(facts["generation"] + 1, session.facts["generation"])
    session.set()


def _expect_death(answer: dict[str, Any]) -> None:
    # On a machine where others run out of memory meanwhile, this may be taken for the cause.
    if answer["outcome"] not in ("kernel_died", "out_of_memory"):
        expect("kernel_died", _told(answer))


def _told(answer: dict[str, Any]) -> str:
    """An answer in short, for people."""
    why = answer["message"] or answer["stderr"][-100:]
    return " / ".join([answer["outcome"], why, *answer["notes"]])


def _run_out_of_time(session: _Session) -> None:
    answer = session.run(session.chance.choice(_LOOPS), timeout=_SHORT)
    expect(("timeout", False), (answer["outcome"], answer["state_lost"]))


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
