"""JavaScript: input that is asked for."""

# ruff: noqa: E501 - the code of cells
from __future__ import annotations

from tests.kernels.host.harness import Host


def test_prompt_waits_for_a_line(host: Host) -> None:
    outcome = host.run(
        "const a = prompt('Name? '); const b = prompt(); a + '/' + b", lines=["é1", "2"]
    )
    assert outcome.text == "'é1/2'"
    assert outcome.prompts == [("Name? ", False), ("", False)]
    assert host.run("prompt('x')", lines=[]).text == "null"
    code = "await new Promise((r) => setTimeout(r, 1)); prompt('later')"
    assert host.run(code, lines=["l"]).text == "'l'"


def test_a_prompt_can_be_interrupted(host: Host) -> None:
    host.ask = lambda prompt, **_: host.outcome.prompts.append((prompt, False))  # type: ignore[method-assign]
    outcome = host.run("prompt('?')", interrupt_when=lambda seen: bool(seen.prompts))
    assert outcome.failure.name == "KeyboardInterrupt"
    code = "await new Promise((r) => setTimeout(r, 5)); prompt('?')"
    outcome = host.run(code, interrupt_when=lambda seen: bool(seen.prompts))
    assert outcome.failure.name == "KeyboardInterrupt"
    assert host.run("1").text == "1"


def test_a_prompt_is_interrupted_however_often(host: Host) -> None:
    host.ask = lambda prompt, **_: host.outcome.prompts.append((prompt, False))  # type: ignore[method-assign]
    assert host.run("let kept = 0").ok
    for _ in range(100):
        outcome = host.run("kept++; prompt('?')", interrupt_when=lambda seen: bool(seen.prompts))
        assert outcome.failure.name == "KeyboardInterrupt"
    assert host.run("kept").text == "100"


def test_process_stdin_asks_for_what_is_read(host: Host) -> None:
    code = """
    const rl = require('readline/promises').createInterface({ input: process.stdin, output: process.stdout });
    const answer = await rl.question('Who? '); rl.close(); answer
    """
    outcome = host.run(code, lines=["me"])
    assert outcome.text == "'me'"
    assert outcome.stdout == "Who? "
    assert host.run("1").prompts == []
    code = "const all = []; for await (const part of process.stdin) all.push(String(part)); all"
    assert host.run(code, lines=["a", "b"]).text == "[ 'a\\n', 'b\\n' ]"
