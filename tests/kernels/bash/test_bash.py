"""Bash, driven as the host kernel does it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kernelagent_python.scope import ScopeError
from tests.kernels.host.harness import Host, Outcome

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@pytest.fixture
def bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A shell in an empty directory."""
    monkeypatch.chdir(tmp_path)
    host = Host("bash")
    yield host
    host.close()


def begun(outcome: Outcome) -> bool:
    """Whether it has printed "begun"."""
    return "begun" in outcome.stdout


def settled() -> Callable[[Outcome], bool]:
    """Whether it has printed "begun" and had the time to start what follows."""
    since: list[float] = []

    def look(outcome: Outcome) -> bool:
        if begun(outcome):
            since.append(time.monotonic())
        return bool(since) and since[-1] - since[0] > 0.1

    return look


# State.


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


def test_tracing_shows_the_cell_alone(bash: Host) -> None:
    outcome = bash.run("set -x\necho traced")
    assert outcome.stderr.replace("+", "") == " echo traced\n"
    outcome = bash.run("echo again")
    assert outcome.stderr.replace("+", "") == " echo again\n"


# Endings.


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


def test_errors_name_the_line_of_the_cell(bash: Host) -> None:
    outcome = bash.run("true\n\nno_such_program a b")
    assert outcome.stderr == "Cell In[1]: line 3: no_such_program: command not found\n"
    assert outcome.exit_code == 127
    outcome = bash.run("f() {\n  no_such_program\n}\nf")
    assert outcome.stderr == "Cell In[2]: line 2: no_such_program: command not found\n"
    assert bash.run("echo $LINENO\necho $LINENO").stdout == "1\n2\n"


# Output.


def test_streams_are_apart_and_as_they_were_written(bash: Host) -> None:
    outcome = bash.run("printf 'a\\tb\\r\\nc'; printf 'e\\n' >&2")
    assert (outcome.stdout, outcome.stderr) == ("a\tb\r\nc", "e\n")
    outcome = bash.run("cat <<-EOF\n\thi\tthere\n\tžluť 日本 🎉 $((1 + 1))\n\tEOF")
    assert outcome.stdout == "hi\tthere\nžluť 日本 🎉 2\n"
    assert bash.run("printf '\\x1b_kernelagent;x\\x1b\\\\ \\x1b_'").stdout.endswith(" \x1b_")


@pytest.mark.parametrize(
    "code",
    [
        "echo a; sleep 0.3; echo b",
        "python3 -c \"import time; print('a'); time.sleep(0.3); print('b')\"",
        "(echo a; sleep 0.3; echo b) | cat",
    ],
)
def test_lines_come_as_they_are_printed(bash: Host, code: str) -> None:
    seen: dict[str, float] = {}

    def look(outcome: Outcome) -> bool:
        for line in outcome.stdout.split():
            seen.setdefault(line, time.monotonic())
        return False

    assert bash.run(code, interrupt_when=look).stdout == "a\nb\n"
    assert seen["b"] - seen["a"] > 0.15 if "b" in seen else seen["a"]


def test_much_output_is_complete_and_quick(bash: Host) -> None:
    outcome = bash.run("seq 1 100000")
    assert outcome.stdout == "".join(f"{number}\n" for number in range(1, 100_001))
    assert outcome.seconds < 1


def test_a_flood_of_output_is_passed_on_and_not_kept() -> None:
    class Counting(Host):
        count = 0
        last = b""

        def stream(self, name: str, data: bytes) -> None:
            del name
            self.count += len(data)
            self.last = data

    host = Counting("bash")
    try:
        before = psutil.Process().memory_info().rss
        assert host.run("head -c 100000000 /dev/zero | tr '\\0' x; echo end").ok
        assert (host.count, host.last[-4:]) == (100_000_004, b"end\n")
        assert psutil.Process().memory_info().rss - before < 20_000_000
    finally:
        host.close()


def test_the_last_output_is_never_missing(bash: Host) -> None:
    for number in range(200):
        outcome = bash.run(f"echo {number}; echo {number} >&2")
        assert (outcome.stdout, outcome.stderr) == (f"{number}\n", f"{number}\n")


def test_redirections_of_the_shell_hold_for_the_cell(bash: Host, tmp_path: Path) -> None:
    assert bash.run("exec >file 2>&1; echo hidden").stdout == ""
    assert (tmp_path / "file").read_text() == "hidden\n"
    assert bash.run("echo seen").stdout == "seen\n"
    assert bash.run("exec >&- 2>&-; true").ok
    assert bash.run("echo seen").stdout == "seen\n"


def test_a_background_process_prints_later_and_ends_with_the_shell(bash: Host) -> None:
    outcome = bash.run("(sleep 0.2; echo late) & echo started; sleep 100 & echo $!")
    pid = int(outcome.stdout.split()[-1])
    assert "started" in outcome.stdout
    assert "late\n" in bash.wait_for(lambda seen: "late" in seen.stdout).stdout
    assert psutil.pid_exists(pid)
    bash.close()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline


def test_jobs_can_be_waited_for(bash: Host) -> None:
    bash.run("sleep 0.2 & first=$!")
    assert bash.run("wait $first; echo $?").stdout == "0\n"
    bash.run("sleep 100 &")
    assert bash.run("kill %1; wait %1; echo $?").stdout.endswith("143\n")


# Interrupts.


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
    program = "python3 -c 'import sys, time; print(\"begun\", file=sys.stderr); time.sleep(60)'"
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


# Environment and directory.


def test_environment_of_a_run_is_data_and_undone_exactly(bash: Host) -> None:
    awkward = "a\"b'c$(id)`id`\\ é\n2"
    bash.run("OWN=own; export SHARED=before; declare -i NUMBER=5")
    env = {"NEW": awkward, "OWN": "1", "SHARED": "2", "NUMBER": "7"}
    code = 'echo "$NEW|$OWN|$SHARED|$NUMBER"; OWN=changed; KEPT=kept'
    assert bash.run(code, env=env).stdout == f"{awkward}|1|2|7\n"
    code = 'echo "${NEW-unset}|$OWN|$SHARED|$NUMBER|$KEPT"; env | grep -c "^OWN="'
    assert bash.run(code).stdout == "unset|own|before|5|kept\n0\n"


def test_variables_of_every_kind_are_put_back(bash: Host) -> None:
    bash.run("set -u; a=(x y); declare -a b=([3]=z); declare -A m=([k]='v w'); declare -x unset_x")
    bash.run("declare -n r=target; target=5; declare -l low=abc")
    names = "a b m unset_x r target low"
    before = bash.run(f"declare -p {names}").stdout
    env = dict.fromkeys(("a", "b", "m", "unset_x", "r", "low"), "NEW value")
    outcome = bash.run("env | grep -c '=NEW value$'; echo $low", env=env)
    assert outcome.stdout == "6\nNEW value\n"
    assert bash.run(f"declare -p {names}").stdout == before


def test_readonly_variables_are_told(bash: Host) -> None:
    bash.run("readonly FIXED=1")
    outcome = bash.run("echo $FIXED $OTHER", env={"FIXED": "2", "OTHER": "3", "UID": "7"})
    assert outcome.ended is not None
    assert (outcome.stdout, outcome.ended.note) == (
        "1 3\n",
        "these variables are readonly: FIXED, UID",
    )


def test_variables_that_steer_the_shell_may_be_set_for_a_run(bash: Host) -> None:
    env = {"IFS": "_/0", "PATH": "/nope", "PS1": "$", "PROMPT_COMMAND": "exit", "LC_ALL": "C"}
    env |= {"POSIXLY_CORRECT": "1", "TMOUT": "1", "GLOBIGNORE": "*", "PWD": "/x", "HOME": "/x"}
    before = bash.run('printf %q "$IFS|$PATH|$HOME|$PWD|${LC_ALL-}|$SHELLOPTS"; ls -d /').stdout
    assert bash.run('echo "$IFS$PATH"', env=env).stdout == "_/0/nope\n"
    after = bash.run('printf %q "$IFS|$PATH|$HOME|$PWD|${LC_ALL-}|$SHELLOPTS"; ls -d /').stdout
    assert after == before


@pytest.mark.parametrize("code", ["false", "echo begun; sleep 60", "cd /; false"])
def test_a_run_that_goes_wrong_is_undone_too(bash: Host, code: str) -> None:
    before = bash.run("pwd").stdout
    when: Callable[[Outcome], bool] | None = begun if "begun" in code else None
    bash.run(code, env={"A": "1"}, cwd="/usr", interrupt_when=when)
    assert bash.run('echo "${A-unset}"; pwd').stdout == f"unset\n{before}"


def test_a_directory_that_is_not_there_is_refused(bash: Host) -> None:
    with pytest.raises(ScopeError, match="/no/such: No such file"):
        bash.run("echo no", cwd="/no/such")
    assert bash.run("echo on").stdout == "on\n"


def test_a_name_that_bash_cannot_take_is_told(bash: Host) -> None:
    outcome = bash.run("echo on", env={"A-B": "1", "C": "2"})
    assert outcome.ended is not None
    assert (outcome.stdout, outcome.ended.note) == (
        "on\n",
        "bash takes no variables of these names: A-B",
    )


def test_configuration_stays(bash: Host, tmp_path: Path) -> None:
    folder = tmp_path / "a 'b\" $c"
    folder.mkdir()
    bash.driver.configure({"A": "x y"}, [], str(folder))
    assert bash.run('echo "$A"; pwd').stdout == f"x y\n{folder}\n"
    bash.driver.configure({}, ["A"], None)
    assert bash.run('echo "${A-unset}"').stdout == "unset\n"


# Rich output.


def test_files_are_shown_in_their_place(bash: Host, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PNG)
    (tmp_path / "a b.md").write_text("# Title")
    outcome = bash.run('echo one; display dot.png; echo two; display "a b.md"; echo three')
    kinds = [value if kind == "stdout" else next(iter(value)) for kind, value in outcome.events]
    assert kinds == ["one\n", "image/png", "two\n", "text/markdown", "three\n"]
    assert not list(Path(bash.driver._live.folder, "shown").iterdir())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a", PNG, "image/png"),
        ("a", b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        ("a", b"GIF89a", "image/gif"),
        ("a", b"%PDF-1.4", "application/pdf"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", "image/svg+xml"),
        ("a.html", b"<p>", "text/html"),
        ("a.md", b"# x", "text/markdown"),
        ("a.json", b"{}", "application/json"),
        ("a.csv", b"a,b\n1,2\n", "text/html"),
        ("a.tsv", b"a\tb\n1\t2\n", "text/html"),
        ("a.txt", b"plain", "text/plain"),
    ],
)
def test_files_are_shown_as_what_they_are(
    bash: Host, tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = bash.run(f"display {name}")
    assert (outcome.ok, len(outcome.displays)) == (True, 1)
    assert {kind, "text/plain"} == set(outcome.displays[0]["data"])


def test_a_picture_from_the_background_is_shown_later(bash: Host) -> None:
    bash.run("(sleep 0.2; echo '<b>late</b>' | display --html) &")
    assert bash.wait_for(lambda seen: bool(seen.displays)).stdout == ""


@pytest.mark.parametrize(
    ("code", "kind", "value"),
    [
        ("printf 'a\\tb\\n' | display --tsv", "text/html", None),
        ("display --html <<< '<b>x</b>'", "text/html", "<b>x</b>\n"),
        ("echo '{\"a\": [1]}' | display --json", "application/json", {"a": [1]}),
        ("display --type=image/svg+xml - <<< '<svg/>'", "image/svg+xml", "<svg/>\n"),
        ("printf 'a,b\\n1,<2>\\n' | display --csv", "text/html", None),
        ("bash -c 'display --markdown <<< x'", "text/markdown", "x\n"),
        ("(display --html <<< y)", "text/html", "y\n"),
    ],
)
def test_input_is_shown_by_its_type(bash: Host, code: str, kind: str, value: object) -> None:
    outcome = bash.run(code)
    assert outcome.ok
    data = outcome.displays[0]["data"]
    assert kind in data
    if value is None:
        assert "<th>a</th>" in data[kind]
        assert "tsv" in code or "<td>&lt;2&gt;</td>" in data[kind]
    else:
        assert data[kind] == value


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("display /no/such", "No such file"),
        ("display --what", "usage: display"),
        ("echo '{' | display --json; false", "is no JSON"),
        ("head -c 34000000 /dev/zero | display --html", "has more than 32 MiB"),
        ("printf '\\xff' | display --html; false", "not UTF-8"),
        ("printf '[%.0s' {1..50000} | display --json; false", "is no JSON"),
        ("echo '[NaN]' | display --json; false", "NaN is not JSON"),
        ("head -c 200000 /dev/zero | tr '\\0' x | display --csv; false", "is no table"),
        ("display /", "Is a directory"),
    ],
)
def test_what_cannot_be_shown_is_told(bash: Host, code: str, said: str) -> None:
    outcome = bash.run(code)
    assert not outcome.displays
    assert said in outcome.stderr
    assert outcome.exit_code != 0


# Questions.


def test_names_are_completed(bash: Host, tmp_path: Path) -> None:
    bash.run("my_function() { :; }; my_variable=1")
    (tmp_path / "some_file").touch()
    complete = bash.driver.complete
    assert "my_function" in complete("my_fun", 6)[0]
    assert complete("echo $my_va", 11) == (["$my_variable"], 5, 11)
    assert "some_file" in complete("cat so", 6)[0]
    assert complete("", 0)[1:] == (0, 0)
    (tmp_path / "a folder").mkdir()
    assert complete("ls a", 4) == (["a\\ folder/"], 3, 4)
    assert complete("ls a\\ f", 7) == (["a\\ folder/"], 3, 7)
    assert complete('echo "${my_va', 13) == (["${my_variable}"], 6, 13)
    assert "mapfile" in complete("true; mapf", 10)[0]
    assert complete("echo é my_va", 12)[1:] == (7, 12)


def test_names_are_explained(bash: Host) -> None:
    bash.run("f() { echo hi; }")
    shown = bash.driver.inspect("f", 1)
    assert shown is not None
    assert "echo hi" in shown["text/plain"]
    shown = bash.driver.inspect("cd /", 1)
    assert shown is not None
    assert "Change the shell working directory" in shown["text/plain"]
    assert bash.driver.inspect("no_such_thing", 3) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("echo", "complete"),
        ("if true", "incomplete"),
        ("echo 'a", "incomplete"),
        ("echo \\", "incomplete"),
        ("cat <<END\na", "incomplete"),
        ("echo !(a|b)", "complete"),
        (")", "invalid"),
    ],
)
def test_it_is_told_whether_code_is_complete(bash: Host, code: str, expected: str) -> None:
    assert bash.driver.is_complete(code) == expected


def test_variables_are_listed(bash: Host) -> None:
    assert bash.driver.variables(10)["variables"] == []
    bash.run("set -u; a=1; b=(1 '2 3'); declare -A c=([k]=v); declare -i d=4; e=$'two\\nlines'")
    bash.run("declare -n f=a; h=$(printf 'x%.0s' {1..10000})")
    listed = bash.driver.variables(10)
    assert [
        (item["name"], item["type"], item["shape"], item["preview"]) for item in listed["variables"]
    ] == [
        ("a", "string", None, "1"),
        ("b", "array", [2], "([0]=1 [1]=2 3)"),
        ("c", "associative array", [1], "([k]=v)"),
        ("d", "integer", None, "4"),
        ("e", "string", None, "two\nlines"),
        ("f", "reference", None, '"a"'),
        ("h", "string", None, "x" * 120),
    ]
    assert (listed["total"], listed["truncated"]) == (7, False)
    assert bash.driver.variables(2)["truncated"] is True


def test_the_language_is_described(bash: Host) -> None:
    version = bash.run("echo $BASH_VERSION").stdout.strip()
    assert bash.driver.language_info["version"] == version


# What is left.


def test_nothing_is_left(bash: Host) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    for _ in range(5):
        bash.run("exit 1")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    folder = Path(bash.driver._live.folder)  # type: ignore[attr-defined]
    assert folder.is_dir()
    bash.close()
    assert not folder.exists()


def test_what_a_killed_kernel_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    first = Host("bash")
    folder = Path(first.driver._live.folder)  # type: ignore[attr-defined]
    stale = folder.with_name("ka-bash-999999999-x")
    stale.mkdir()
    second = Host("bash")
    assert folder.is_dir()
    assert not stale.exists()
    first.close()
    second.close()


def test_a_cell_of_a_megabyte(bash: Host) -> None:
    outcome = bash.run(
        "\n".join(f"x{number}={number}" for number in range(60_000)) + "\necho $x59999"
    )
    assert outcome.stdout == "59999\n"
