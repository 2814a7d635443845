"""Output of Bash: complete, in order, and as it comes; jobs in the background."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.jupyter.leaks import runs
from tests.kernels.host.harness import Host, Outcome
from tests.waiting import wait_until


def test_streams_are_apart_and_as_they_were_written(bash: Host) -> None:
    outcome = bash.run("printf 'a\\tb\\r\\nc'; printf 'e\\n' >&2")
    assert (outcome.stdout, outcome.stderr) == ("a\tb\r\nc", "e\n")
    outcome = bash.run("cat <<-EOF\n\thi\tthere\n\tžluť 日本 🎉 $((1 + 1))\n\tEOF")
    assert outcome.stdout == "hi\tthere\nžluť 日本 🎉 2\n"
    assert bash.run("printf '\\x1b_kernelagent;x\\x1b\\\\ \\x1b_'").stdout.endswith(" \x1b_")


@pytest.mark.parametrize(
    "code",
    [
        "echo a; until [ -e go ]; do sleep 0.01; done; echo b",
        "python3 -c \"import os; print('a')\nwhile not os.path.exists('go'): pass\nprint('b')\"",
        "(echo a; until [ -e go ]; do sleep 0.01; done; echo b) | cat",
    ],
)
def test_lines_come_as_they_are_printed(bash: Host, code: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(outcome: Outcome) -> bool:
        # A terminal may hand a line over in parts.
        if outcome.stdout.endswith("\n") and not seen:
            seen.append(outcome.stdout)
            (tmp_path / "go").touch()
        return False

    assert bash.run(code, interrupt_when=look).stdout == "a\nb\n"
    assert seen == ["a\n"]


@pytest.mark.alone
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
    wait_until(lambda: not runs(pid))


def test_jobs_can_be_waited_for(bash: Host) -> None:
    bash.run("sleep 0.2 & first=$!")
    assert bash.run("wait $first; echo $?").stdout == "0\n"
    bash.run("sleep 100 &")
    assert bash.run("kill %1; wait %1; echo $?").stdout.endswith("143\n")
