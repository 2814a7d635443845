"""Input of Bash's cells: what waits for it is asked for, and typed as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installed import program
from tests.kernels.host.harness import Host, Outcome


class Unanswered(Host):
    """Nobody answers, and nobody says so."""

    def ask(self, prompt: str, *, password: bool = False) -> None:
        self.outcome.prompts.append((prompt, password))


@pytest.mark.parametrize(
    ("code", "printed", "prompt"),
    [
        ('read -p "name? " n; echo "[$n]"', "[Zoë]\n", "name? "),
        ('printf "name? "; read n; echo "[$n]"', "[Zoë]\n", "name? "),
        ("python3 -c 'print(input(\"n? \")[::-1])'", "ëoZ\n", "n? "),
        ('(read -p "q " x; echo "[$x]")', "[Zoë]\n", "q "),
        ("f() { local y; read y; echo $y; }; f", "Zoë\n", ""),
        ("read -t 60 x; echo $x", "Zoë\n", ""),
        ("echo a | { read x; read y </dev/tty; echo $x$y; }", "aZoë\n", ""),
        ("sh -c 'printf \"pass \" >/dev/tty; read x </dev/tty; echo $x'", "Zoë\n", "pass "),
        ("head -n 1", "Zoë\n", ""),
        (
            "python3 -c 'import select, sys; select.select([sys.stdin], [], []); print(input())'",
            "Zoë\n",
            "",
        ),
    ],
)
def test_a_line_is_asked_for(bash: Host, code: str, printed: str, prompt: str) -> None:
    outcome = bash.run(code, lines=["Zoë"])
    assert (outcome.stdout, outcome.stderr) == (printed, "")
    assert outcome.prompts == [(prompt, False)]


def test_passwords_are_asked_for_as_such(bash: Host) -> None:
    outcome = bash.run('read -rsp "pass " secret; echo "${#secret}"', lines=["hush"])
    assert (outcome.stdout, outcome.prompts) == ("4\n", [("pass ", True)])
    outcome = bash.run("python3 -c 'import getpass; print(len(getpass.getpass()))'", lines=["hush"])
    assert (outcome.stdout.strip(), outcome.prompts) == ("4", [("Password: ", True)])


def test_many_lines_are_asked_for_until_there_are_none(bash: Host) -> None:
    assert bash.run("cat", lines=["one", "two"]).stdout == "one\ntwo\n"
    outcome = bash.run('while read -r x; do echo "<$x>"; done', lines=["1", "", "3"])
    assert outcome.stdout == "<1>\n<>\n<3>\n"
    assert len(outcome.prompts) == 4
    outcome = bash.run("select x in a b; do echo $x; break; done", lines=["2"])
    assert (outcome.stdout, outcome.stderr) == ("b\n", "1) a\n2) b\n")
    assert outcome.prompts == [("#? ", False)]


def test_single_keys_are_not_mixed_with_what_comes_next(bash: Host) -> None:
    code = 'read -n1 -p "ok? " x; echo "[$x]"; read y; echo "[$y]"; read -n3 z; echo "[$z]"'
    outcome = bash.run(code, lines=["yes", "two", "ab"])
    assert outcome.stdout == "[y]\n[two]\n[ab]\n"


def test_a_program_that_edits_lines_by_itself_is_answered(bash: Host) -> None:
    code = program("node") + (
        ' -e \'const r = require("readline").createInterface({input: process.stdin, '
        'output: process.stdout}); r.question("n? ", a => { console.log(`<${a}>`); r.close() })\''
    )
    outcome = bash.run(code, lines=["three"])
    assert "<three>\n" in outcome.stdout
    assert outcome.prompts == [("n? ", False)]


def test_a_line_is_typed_as_it_stands(bash: Host) -> None:
    line = "a\x03b\x04c\x1bd\x7f\x15\x16\x1a\x1ce\tf\rg'\"$(id) 日"
    outcome = bash.run("IFS= read -r x; printf %s \"$x\" | python3 -c 'print(ascii(input()))'; "
                       'printf %s "$x" | od -An -v -tx1 | tr -d "\\n"', lines=[line])  # fmt: skip
    assert bytes.fromhex(outcome.stdout.splitlines()[-1]) == line.encode()


def test_a_line_that_a_terminal_cannot_hold_is_refused(bash: Host) -> None:
    assert bash.run("read -r x; echo ${#x}", lines=["a" * 4094]).stdout == "4094\n"
    outcome = bash.run("read -r x; echo $?", lines=["a" * 4095])
    assert (outcome.stdout, outcome.stderr) == (
        "1\n",
        "the line has 4095 bytes: a terminal takes 4094 at most\n",
    )


def test_what_a_cell_leaves_unread_is_never_run(bash: Host, tmp_path: Path) -> None:
    assert bash.run("head -c 1", lines=["xyz; touch injected"]).stdout == "x"
    assert bash.run("read -n1 x </dev/tty; echo $x", lines=["xtouch injected"]).ok
    assert bash.run("echo on").stdout == "on\n"
    assert not (tmp_path / "injected").exists()
    assert bash.run('read -t 0.1 x; echo "[$x]"', lines=[]).stdout == "[]\n"


@pytest.mark.alone
@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ('read x; echo "$?[$x]"', "1[]\n"),
        ("cat; echo end", "end\n"),
        ('read x </dev/tty; echo "$?[$x]"', "1[]\n"),
        ("python3 -c 'input()' 2>&1 | tail -n 1", "EOFError: EOF when reading a line\n"),
    ],
)
@pytest.mark.parametrize("lines", [None, []])
def test_input_that_nobody_can_give_is_at_its_end(
    bash: Host, code: str, printed: str, lines: list[str] | None
) -> None:
    outcome = bash.run(code, lines=lines)
    assert outcome.stdout == printed
    assert outcome.seconds < 2


def test_a_prompt_that_nobody_answers_is_still_shown(bash: Host) -> None:
    outcome = bash.run('read -p "name? " n', lines=[])
    assert (outcome.stderr, outcome.prompts) == ("name? ", [("name? ", False)])


def test_nothing_is_asked_for_without_need(bash: Host) -> None:
    code = "echo quiet | cat; cat & sleep 0.2; python3 -c 'import time; time.sleep(0.1)'; kill %1"
    outcome = bash.run(code, lines=["x"])
    assert (outcome.stdout, outcome.prompts) == ("quiet\n", [])


def test_beginnings_of_lines_come_soon_and_in_order(bash: Host) -> None:
    outcome = bash.run("printf a; printf b >&2; sleep 0.3; echo c; sleep 0.3", lines=[])
    assert [name for name, _ in outcome.events] == ["stdout", "stderr", "stdout"]
    assert (outcome.stdout, outcome.stderr) == ("ac\n", "b")


def test_what_is_printed_after_a_run_is_not_held_back(bash: Host) -> None:
    bash.run("(sleep 0.2; printf late) &", lines=[])
    assert bash.wait_for(lambda seen: seen.stdout == "late").prompts == []


def test_what_was_typed_has_arrived(bash: Host) -> None:
    # Or a program that waits for it would be taken for one that waits for more.
    terminal = bash.driver._live.input  # type: ignore[attr-defined]
    for _ in range(500):
        terminal.type(b"line\n")
        assert terminal.unread == 5
        terminal.forget()


def test_settings_of_the_terminal_last_for_a_cell(bash: Host) -> None:
    assert bash.run("stty raw -echo </dev/tty; stty opost onlcr <&1; echo x").ok
    outcome = bash.run('read x; echo "[$x]"; read y </dev/tty; echo "[$y]"', lines=["q", "r"])
    assert (outcome.stdout, outcome.prompts) == ("[q]\n[r]\n", [("", False), ("", False)])


@pytest.mark.parametrize("code", ["read x", "read -s x </dev/tty", "cat", "python3 -c 'input()'"])
def test_an_interrupt_ends_the_waiting(code: str) -> None:
    host = Unanswered("bash")
    try:
        asked = lambda outcome: bool(outcome.prompts)  # noqa: E731
        outcome = host.run(f"kept=1; {code}; echo not", lines=[], interrupt_when=asked)
        assert outcome.failure.name == "KeyboardInterrupt"
        assert (outcome.exit_code, outcome.stdout) == (130, "")
        host.driver.answer("too late; echo injected")
        assert host.run("echo $kept").stdout == "1\n"
    finally:
        host.close()


def test_an_answer_is_not_echoed(bash: Host) -> None:
    def shown(outcome: Outcome) -> str:
        return outcome.stdout + outcome.stderr

    assert "quiet" not in shown(bash.run("read x; true", lines=["quiet"]))
    assert "quiet" not in shown(bash.run("read x </dev/tty; true", lines=["quiet\x01é"]))
