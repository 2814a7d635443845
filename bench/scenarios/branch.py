"""Copies of a session that holds much: branches, checkpoints, and what their first use costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from bench.clients import HttpClient, OurRunner
from bench.findings import Findings, Plan
from bench.samples import Measure, interleave
from bench.scenarios.variants import ONE, expect
from bench.servers import our_server

_HOLDING = "session with 400 MB"
_EMPTY = "session with nothing"
_BRANCH = "branch of it"

_COPY_CASE = "branch, run 1"
_LIMIT_MS = 100.0

_LENGTH = 50_000_000
_MAKE = f"import numpy as np\na = np.ones({_LENGTH})"
_READ = "float(a.sum())"
_READ_RESULT = f"{_LENGTH}.0"
# The copy's own change must not be seen in the session.
_WRITE = "a += 1\nfloat(a[-1])"
_WRITE_BACK = "a += 0\nfloat(a[-1])"


def run(plan: Plan, say: Callable[[str], None]) -> Findings:
    """Measure it."""
    findings = Findings()
    rounds = plan.rounds(20, 3)
    say("starting the server and two sessions")
    with our_server(pool=0) as server:
        client = server.client()
        holding, empty = _Session(client), _Session(client)
        holding.run(_MAKE, "")
        holding.run(_READ, _READ_RESULT)
        # Interpreter, numpy and connection are as warm there.
        empty.run("import numpy as np\nfloat(np.ones(10).sum())", "10.0")
        cases: dict[str, dict[str, Measure]] = {
            _COPY_CASE: {
                _HOLDING: partial(_time_branch, holding),
                _EMPTY: partial(_time_branch, empty),
            },
            "the array's first use: all of it read": {
                _HOLDING: partial(holding.time, _READ, _READ_RESULT),
                _BRANCH: partial(_time_in_branch, holding, _READ, _READ_RESULT),
            },
            "the array's first use: all of it written": {
                _HOLDING: partial(holding.time, _WRITE_BACK, "1.0"),
                _BRANCH: partial(_time_in_branch, holding, _WRITE, "2.0"),
            },
            "checkpoint": {
                _HOLDING: partial(_time_checkpoint, holding),
                _EMPTY: partial(_time_checkpoint, empty),
            },
            "restore, run 1": {
                _HOLDING: partial(_time_restore, holding, holding.keep()),
                _EMPTY: partial(_time_restore, empty, empty.keep()),
            },
        }
        for case, measures in cases.items():
            say(case)
            for measure in measures.values():
                measure()
            samples = interleave(measures, rounds)
            scaled = {name: got.scaled(1000) for name, got in samples.items()}
            findings.add(case, "ms", scaled, baseline=_HOLDING)
        holding.run(_READ, _READ_RESULT)
    findings.expect_below(_COPY_CASE, _LIMIT_MS, ours=_HOLDING)
    return findings


class _Session:
    """A session of ours; `path` is where one is asked for."""

    def __init__(self, client: HttpClient, path: str = "/sessions") -> None:
        self._client = client
        self.path = f"/sessions/{client.request('POST', path, {})['id']}"
        self._runner = OurRunner(client, self.path.rpartition("/")[2])

    def run(self, code: str, result: str) -> None:
        expect(result, self._runner.execute(code).result)

    def time(self, code: str, result: str) -> float:
        started = time.perf_counter()
        shown = self._runner.execute(code)
        elapsed = time.perf_counter() - started
        expect(result, shown.result)
        return elapsed

    def branch(self) -> _Session:
        return _Session(self._client, f"{self.path}/branch")

    def keep(self) -> str:
        """Make a checkpoint; its id."""
        return str(self.ask("POST", "/checkpoints", {})["id"])

    def ask(self, method: str, below: str, content: dict[str, str] | None = None) -> dict[str, str]:
        answer: dict[str, str] = self._client.request(method, f"{self.path}{below}", content)
        return answer

    def delete(self) -> None:
        self.ask("DELETE", "")


def _time_branch(session: _Session) -> float:
    started = time.perf_counter()
    branch = session.branch()
    branch.run(ONE.result, ONE.result)
    elapsed = time.perf_counter() - started
    branch.delete()
    return elapsed


def _time_in_branch(session: _Session, code: str, result: str) -> float:
    branch = session.branch()
    branch.run(ONE.result, ONE.result)
    elapsed = branch.time(code, result)
    branch.delete()
    return elapsed


def _time_checkpoint(session: _Session) -> float:
    started = time.perf_counter()
    checkpoint = session.keep()
    elapsed = time.perf_counter() - started
    session.ask("DELETE", f"/checkpoints/{checkpoint}")
    return elapsed


def _time_restore(session: _Session, checkpoint: str) -> float:
    started = time.perf_counter()
    session.ask("POST", "/restore", {"checkpoint_id": checkpoint})
    session.run(ONE.result, ONE.result)
    return time.perf_counter() - started
