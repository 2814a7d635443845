"""Cells of Bash: state lives on, and each ending is told as what it is."""

from __future__ import annotations

import signal
import time

import pytest

from tests.kernels.host.harness import Host, Outcome, begun


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("x='a  b'", 'echo "$x"', "a  b\n"),
        ("f() { echo $(($1 * 2)); }", "f 21", "42\n"),
        ("declare -A m=([k]=v)", "echo ${m[k]}", "v\n"),
        ("shopt -s nullglob extglob", "echo *.none !(x)", "\n"),
        ("set -o pipefail", "false | true; echo $?", "1\n"),
        ("alias greet='echo hi'", "greet", "hi\n"),
        ("set -- a 'b c'", 'echo $#"$2"', "2b c\n"),
        ("mkdir d; cd d", "basename $PWD", "d\n"),
        ("umask 077", "umask", "0077\n"),
        ("export E=1", "python3 -c 'import os; print(os.environ[\"E\"])'", "1\n"),
        ("readonly R=5; (exit 3)", "echo $? $R", "3 5\n"),
        ("ulimit -n 100", "ulimit -n", "100\n"),
        ("trap 'echo bye >&2' USR1", "kill -USR1 $$; echo on", "on\n"),
    ],
)
def test_state_lives_on(bash: Host, first: str, then: str, expected: str) -> None:
    bash.run(first)
    assert bash.run(then).stdout == expected


def test_nothing_of_the_machinery_is_in_the_way(bash: Host) -> None:
    bash.run("printf() { :; }; cd() { :; }; export() { :; }; mapfile() { :; }; alias echo=false")
    bash.run("IFS=xyz; set -f; set -C; set -u; shopt -s nocasematch")
    assert bash.run('command echo "[$A]"', env={"A": "x y z"}).stdout == "[x y z]\n"
    assert bash.run("pwd", cwd="/usr").stdout == "/usr\n"
    assert bash.run("pwd").stdout != "/usr\n"
    assert bash.run("set -o posix; command echo on").stdout == "on\n"
    assert bash.run("command echo on").stdout == "on\n"


@pytest.mark.parametrize(
    "code", ["PS1=zz PS2=yy PS4=xx", "PROMPT_COMMAND=", "PROMPT_COMMAND=false"]
)
def test_prompts_may_be_set(bash: Host, code: str) -> None:
    outcome = bash.run(code)
    assert (outcome.stdout, outcome.stderr) == ("", "")
    outcome = bash.run("echo on")
    assert (outcome.stdout, outcome.stderr) == ("on\n", "")
    # In the very cell that is interrupted, too.
    outcome = bash.run(f"{code}\necho begun\nsleep 60", interrupt_when=begun)
    assert outcome.failure.name == "KeyboardInterrupt"
    assert bash.run("echo on").stdout == "on\n"


def test_interrupts_at_any_moment_after_a_cell_has_cleared_its_prompt(bash: Host) -> None:
    """What puts the shell in order after an interrupt is not what a cell can clear."""
    bash.run("x=5")
    for number in range(40):
        wait = number % 8 / 4000

        def after_a_while(outcome: Outcome, wait: float = wait) -> bool:
            time.sleep(wait)
            return begun(outcome)

        outcome = bash.run("PROMPT_COMMAND=\necho begun\nsleep 60", interrupt_when=after_a_while)
        assert outcome.failure.name == "KeyboardInterrupt"
    assert bash.run("echo $x").stdout == "5\n"


def test_tracing_shows_the_cell_alone(bash: Host) -> None:
    outcome = bash.run("set -x\necho traced")
    assert outcome.stderr.replace("+", "") == " echo traced\n"
    outcome = bash.run("echo again")
    assert outcome.stderr.replace("+", "") == " echo again\n"


@pytest.mark.parametrize(("code", "status"), [("true", 0), ("false", 1), ("(exit 7)", 7), ("", 0)])
def test_the_status_of_the_last_command_is_the_exit_code(
    bash: Host, code: str, status: int
) -> None:
    outcome = bash.run(code)
    assert outcome.ended is not None
    assert (outcome.exit_code, outcome.ended.failure, outcome.ended.fresh) == (status, None, False)
    assert bash.run("echo $?").stdout == f"{status}\n"


@pytest.mark.parametrize(
    ("code", "status", "printed"),
    [
        ("echo a; exit 3; echo b", 3, "a\n"),
        ("exit 0", 0, ""),
        ("set -e; echo a; false; echo b", 1, "a\n"),
        ("set -u; echo a; echo $unset; echo b", None, "a\n"),
        ("exec sh -c 'echo a; exit 4'", 4, "a\n"),
        ("trap 'echo bye' EXIT; exit 2", 2, "bye\n"),
    ],
)
def test_a_shell_that_ends_is_replaced(
    bash: Host, code: str, status: int | None, printed: str
) -> None:
    bash.run("x=1")
    outcome = bash.run(code)
    assert outcome.stdout == printed
    assert outcome.ended is not None
    if status is None:
        # An interactive shell gives the command up, and lives on.
        assert outcome.exit_code != 0
        return
    assert (outcome.exit_code, outcome.ended.fresh) == (status, True)
    assert f"status {status}" in outcome.ended.note
    assert bash.run('echo "[${x-}]"').stdout == "[]\n"


def test_set_e_may_stay_on(bash: Host) -> None:
    assert bash.run("set -e").ok
    outcome = bash.run("echo a", env={"A": "1"}, cwd="/")
    assert (outcome.stdout, outcome.ok) == ("a\n", True)
    assert bash.run("false; echo b").stdout == ""


def test_a_shell_that_is_killed_is_noticed(bash: Host) -> None:
    outcome = bash.run("echo begun; kill -9 $$")
    assert (outcome.signal, outcome.stdout) == (signal.SIGKILL, "begun\n")


@pytest.mark.parametrize(
    "code", ["echo 'open", 'echo "open', "if true; then", "echo $(", "f() {", "case x in"]
)
def test_what_is_not_finished_is_a_syntax_error_at_once(bash: Host, code: str) -> None:
    outcome = bash.run(f"\n{code}")
    assert outcome.exit_code == 2
    assert "Cell In[1]: line " in outcome.stderr
    assert "ka-bash" not in outcome.stderr
    assert bash.run("echo on").stdout == "on\n"


@pytest.mark.parametrize("code", ["echo $(", "cat <(\nls", 'echo "$(ls\n# rest', "x=$(if"])
def test_what_stands_before_an_error_is_run(bash: Host, code: str) -> None:
    outcome = bash.run(f"echo a; echo b\nfor x in c; do\n  echo $x\ndone\n{code}")
    assert outcome.stdout == "a\nb\nc\n"
    said = "unexpected EOF while looking for matching `)'\n"
    assert outcome.stderr == f"Cell In[1]: line {6 + code.count(chr(10))}: {said}"
    assert outcome.exit_code == 2
    # Bash itself would abort at some moment after such a cell.
    for _ in range(20):
        assert bash.run("x=$(echo on); echo $x").stdout == "on\n"


def test_errors_name_the_line_of_the_cell(bash: Host) -> None:
    outcome = bash.run("true\n\nno_such_program a b")
    assert outcome.stderr == "Cell In[1]: line 3: no_such_program: command not found\n"
    assert outcome.exit_code == 127
    outcome = bash.run("f() {\n  no_such_program\n}\nf")
    assert outcome.stderr == "Cell In[2]: line 2: no_such_program: command not found\n"
    assert bash.run("echo $LINENO\necho $LINENO").stdout == "1\n2\n"


def test_a_cell_of_a_megabyte(bash: Host) -> None:
    outcome = bash.run(
        "\n".join(f"x{number}={number}" for number in range(60_000)) + "\necho $x59999"
    )
    assert outcome.stdout == "59999\n"
