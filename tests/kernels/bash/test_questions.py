"""What Bash tells of itself, and what it leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host


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
