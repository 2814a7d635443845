"""Interrupts of Bash: they stop the cell, all of it, and cost no state."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.kernels.host.harness import Host, Outcome, begun


def settled() -> Callable[[Outcome], bool]:
    """Whether it has printed "begun" and had the time to start what follows."""
    since: list[float] = []

    def look(outcome: Outcome) -> bool:
        if begun(outcome):
            since.append(time.monotonic())
        return bool(since) and since[-1] - since[0] > 0.1

    return look


@pytest.mark.alone
@pytest.mark.parametrize(
    "code",
    [
        "while true; do :; done",
        "sleep 60; echo not",
        "sleep 60 | cat; echo not",
        "while true; do sleep 1; done",
        "y=$(sleep 60); echo not",
        "(sleep 60; echo never); echo not",
        "yes | while read -r x; do :; done; echo not",
        "set +m; sleep 60 | cat; echo not",
        "mapfile y < <(sleep 60); echo not",
        "cat /dev/zero >/dev/null; echo not",
        "wait_for() { sleep 60; }; wait_for; echo not",
        "sleep 60 & wait; echo not",
    ],
)
def test_an_interrupt_stops_the_whole_cell_and_keeps_the_state(bash: Host, code: str) -> None:
    bash.run("x=41")
    outcome = bash.run(f"echo begun\n{code}", interrupt_when=settled())
    assert outcome.failure.name == "KeyboardInterrupt"
    assert (outcome.exit_code, outcome.stdout) == (130, "begun\n")
    assert outcome.seconds < 1
    assert bash.run("echo $((x + 1))").stdout == "42\n"


@pytest.mark.parametrize("code", ["while :; do :; done", "sleep 60", "read x </dev/tty", "wait"])
def test_an_interrupt_may_come_at_once(bash: Host, code: str) -> None:
    bash.run("x=41; sleep 60 &")
    for _ in range(20):
        outcome = bash.run(f"{code}; echo not", interrupt_when=lambda _: True)
        assert outcome.failure.name == "KeyboardInterrupt"
        assert outcome.stdout == ""
    assert bash.run("echo $((x + 1))").stdout == "42\n"


@pytest.mark.parametrize("code", ["{}; echo not", "y=$({} >&2); echo not", "({}); echo not"])
def test_a_python_program_sees_the_interrupt(bash: Host, code: str) -> None:
    # Not one long sleep: Python loses a signal that comes right before it.
    wait = "[time.sleep(0.01) for _ in range(6000)]"
    program = f"python3 -c 'import sys, time; print(\"begun\", file=sys.stderr); {wait}'"
    outcome = bash.run(
        code.replace("{}", program), interrupt_when=lambda seen: "begun" in seen.stderr
    )
    assert outcome.failure.name == "KeyboardInterrupt"
    assert (outcome.exit_code, outcome.stdout) == (130, "")
    assert "KeyboardInterrupt" in outcome.stderr


def test_interrupts_at_random_hardly_ever_cost_the_shell(bash: Host) -> None:
    bash.run("x=41")
    lost = 0
    for number in range(100):
        ends = time.monotonic() + number % 20 / 1000
        outcome = bash.run(
            "for i in 1 2 3 4 5; do sleep 0.002; echo $i; done",
            env={"A": "1"},
            cwd="/",
            interrupt_when=lambda _, ends=ends: time.monotonic() >= ends,  # type: ignore[misc]
        )
        # Either it was interrupted and says so, or all of it was run.
        assert outcome.exit_code == 130 or outcome.stdout == "1\n2\n3\n4\n5\n"
        if outcome.ended is not None and outcome.ended.fresh:
            # Less than one in a thousand, and told: bash takes it for the end of its input.
            assert "a fresh one" in outcome.ended.note
            bash.run("x=41")
            lost += 1
    assert lost <= 1
    assert bash.run("echo $((x + 1))${A-}").stdout == "42\n"


def test_a_program_that_minds_the_interrupt_lets_the_cell_go_on(bash: Host) -> None:
    code = (
        'python3 -c \'import time\ntry:\n  print("begun"); time.sleep(60)\n'
        'except KeyboardInterrupt: print("minded")\'\necho on'
    )
    outcome = bash.run(code, interrupt_when=begun)
    # Python writes a line in two pieces, and may be interrupted between them.
    assert outcome.stdout.replace("\n", "") == "begunmindedon"
    assert outcome.ok
