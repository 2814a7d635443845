"""Environment and directory of a run of Bash: data, and undone exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kernelagent_python.scope import ScopeError
from tests.kernels.host.harness import Host, Outcome, begun


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
