"""Bash when its cells get in the way of what drives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.jupyter.leaks import runs
from tests.kernels.host.harness import Host
from tests.waiting import wait_until


@pytest.mark.alone
@pytest.mark.parametrize(
    "code",
    [
        "builtin() { echo mine; }",
        ".() { :; }; source() { :; }; eval() { :; }; unset() { :; }",
        "builtin() { :; }; unset() { :; }; enable() { :; }",
        "enable -n printf mapfile cd export declare",
        "enable -n mapfile",
        "enable -n builtin",
        "enable -n . source",
        "unset ${!__ka_*}",
        "alias builtin=false .=false printf=false unset=false enable=false",
        "unset -f __ka_return",
        "set -o posix; export() { :; }",
        "readonly PROMPT_COMMAND PS1 PS2 IFS PWD OLDPWD",
        "kill -STOP $$",
        "suspend",
        "exec 0<&- 1>&- 2>&-",
        "IFS=0123456789",
        "trap 'x=$((x + 1))' DEBUG; set -T",
        "trap : ERR; trap : RETURN; set -E",
        "shopt -s nocasematch failglob; set -f; set -o noclobber",
        "BASH_XTRACEFD=7 7>/dev/null; exec 7>trace; BASH_XTRACEFD=7; set -x",
        "TMOUT=1",
    ],
)
def test_the_shell_lives_on_with_its_state(bash: Host, code: str) -> None:
    bash.run("kept=1")
    outcome = bash.run(f"{code}\ntrue")
    assert outcome.stdout == ""
    assert outcome.seconds < 2
    assert bash.run('command echo "$kept[$A]"', env={"A": "a b"}, cwd="/").stdout == "1[a b]\n"
    assert bash.run('command echo "$kept[${A-}]"').stdout == "1[]\n"


def test_the_status_survives_a_rescue(bash: Host) -> None:
    outcome = bash.run("builtin() { :; }\n(exit 7)")
    assert outcome.ended is not None
    assert (outcome.exit_code, outcome.ended.fresh) == (7, False)
    assert "put in order" in outcome.ended.note


def test_a_time_limit_ends_no_idle_shell(bash: Host) -> None:
    assert bash.run("kept=1; TMOUT=1").ok
    end = time.monotonic() + 1.3
    while time.monotonic() < end:
        bash.poll(0.05)
    assert bash.run("echo $kept$TMOUT; unset TMOUT").stdout == "11\n"
    assert bash.run("echo ${TMOUT-none}").stdout == "none\n"


def test_a_shell_that_cannot_be_helped_is_replaced(bash: Host) -> None:
    outcome = bash.run("echo a\nshopt -s extdebug; trap false DEBUG\necho b")
    assert outcome.ended is not None
    assert outcome.ended.fresh
    assert outcome.stdout == "a\n"
    assert outcome.failure.name == "HostFailed"
    assert "no longer answers" in outcome.ended.note
    assert bash.run("echo on").stdout == "on\n"


def test_its_files_may_be_removed(bash: Host) -> None:
    bash.run("kept=1")
    folder = Path(bash.driver._live.folder)  # type: ignore[attr-defined]
    outcome = bash.run(f"rm -rf {folder}; echo gone; (exit 3)")
    assert (outcome.stdout, outcome.exit_code) == ("gone\n", 3)
    shutil.rmtree(folder)
    assert bash.run("echo $kept; display --html <<< x").displays
    shutil.rmtree(folder)
    assert "kept" in bash.driver.complete("$kep", 4)[0][0]
    bash.close()
    assert not folder.exists()


def test_its_folder_may_not_be_writable(bash: Host) -> None:
    folder = Path(bash.driver._live.folder)  # type: ignore[attr-defined]
    bash.run("kept=1")
    shutil.rmtree(folder)
    folder.write_text("in the way")
    outcome = bash.run("echo on")
    assert "cannot be handed to bash" in outcome.failure.value
    folder.unlink()
    assert bash.run("echo $kept").stdout == "1\n"


@pytest.mark.parametrize("option", ["-x", "-v"])
def test_tracing_is_of_the_cell_even_when_it_goes_wrong(bash: Host, option: str) -> None:
    bash.run(f"set {option}")
    for code in ("nosuchcommand", "echo 'open", "echo ${x?}", "exit 3"):
        outcome = bash.run(code, env={"A": "1"}, cwd="/")
        assert "__ka" not in outcome.stderr.replace(code, "")
        assert "ka-bash" not in outcome.stderr


def test_what_ran_beside_a_shell_ends_with_it(bash: Host) -> None:
    outcome = bash.run("sleep 1000 & echo $!; (sleep 1000 & echo $!); exit 0")
    assert outcome.ended is not None
    assert outcome.ended.fresh
    pids = [int(word) for word in outcome.stdout.split()]
    assert len(pids) == 2
    assert not any(map(runs, pids))
    bash.run("sleep 1000 & setsid sleep 1001 & (sleep 1002 &) ; setsid true")
    shell = psutil.Process(bash.driver.pid)

    def sleeping() -> list[int]:
        return [child.pid for child in shell.children(recursive=True) if _is_sleep(child)]

    wait_until(lambda: len(sleeping()) == 3)
    started = sleeping()
    wait_until(lambda: all(runs(child.pid) for child in shell.children()))
    assert bash.run("(true &) ; kill %1; wait %1; echo $?").stdout.endswith("143\n")
    bash.close()
    assert not any(map(runs, started))


def test_a_killed_kernel_leaves_no_process() -> None:
    code = (
        "from tests.kernels.host.harness import Host; host = Host('bash'); "
        "pids = host.run('sleep 1000 & echo $!; (sleep 1000 & echo $!); echo $$').stdout; "
        "print(*pids.split(), flush=True); host.run('trap \"\" HUP INT; while :; do :; done')"
    )
    kernel = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert kernel.stdout is not None
    pids = [int(word) for word in kernel.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(runs, pids))
    kernel.kill()
    kernel.communicate()
    wait_until(lambda: not any(map(runs, pids)))


def test_redirections_hold_for_a_cell_that_is_interrupted_too(bash: Host, tmp_path: Path) -> None:
    file = tmp_path / "file"
    outcome = bash.run(
        "exec >file 2>&1; echo hidden; while :; do :; done",
        interrupt_when=lambda _: file.exists() and file.stat().st_size > 0,
    )
    assert outcome.failure.name == "KeyboardInterrupt"
    assert bash.run("echo seen").stdout == "seen\n"
    assert file.read_text() == "hidden\n"


def test_a_child_that_ignores_interrupts_is_outlived(bash: Host) -> None:
    code = (
        'python3 -c "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); '
        "print('begun', flush=True); time.sleep(1)\"; echo on"
    )
    outcome = bash.run(code, interrupt_when=lambda seen: "begun" in seen.stdout)
    assert outcome.stdout == "begun\non\n"
    assert bash.run("echo still").stdout == "still\n"


def test_an_interrupt_between_runs_does_nothing(bash: Host) -> None:
    bash.run("x=1")
    bash.driver.interrupt()
    outcome = bash.run("echo $x")
    assert (outcome.stdout, outcome.exit_code) == ("1\n", 0)


@pytest.mark.alone
def test_a_program_that_prints_without_pause_does_not_keep_a_run(bash: Host) -> None:
    outcome = bash.run("yes >&1 & sleep 0.1; echo $! >pid")
    assert outcome.seconds < 3
    assert bash.run("kill $(cat pid); true").seconds < 3


def test_a_large_environment_and_awkward_bytes(bash: Host) -> None:
    outcome = bash.run("echo ${#A}${#B}", env={"A": "x" * 1_000_000, "B": "é\n"})
    assert outcome.stdout == "10000002\n"
    assert bash.run("printf '\\xff\\n'").stdout == "\ufffd\n"
    assert bash.run("echo a\0b").stdout == "ab\n"


def _is_sleep(process: psutil.Process) -> bool:
    try:
        return process.name() == "sleep"
    except psutil.NoSuchProcess:
        return False
