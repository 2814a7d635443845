"""Memory groups: real ones where this machine allows them, and laid-out files for version 2."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernelagent.processes import cgroup
from kernelagent.processes.cgroup import MemoryGroup, MemoryGroups, MemoryUse

MIB = 2**20
LIMIT = 64 * MIB
NAME = f"kernelagent-test-{os.getpid()}"

# Each waits for a line first, so that it is in its group before it allocates.
ALLOCATE = "import sys; input(); data = b'x' * (int(sys.argv[1]) << 20); print('done')"
ALLOCATE_IN_A_CHILD = f"""
import subprocess, sys
input()
done = subprocess.run([sys.executable, "-c", {ALLOCATE!r}, sys.argv[1]], input=b"\\n")
print(done.returncode)
"""

V2_FILES = {"cgroup.procs": "", "cgroup.controllers": "cpu memory", "cgroup.subtree_control": ""}
V2_MEMORY_FILES = {
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.oom.group": "0\n",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n",
}


@pytest.fixture
def groups() -> Iterator[MemoryGroups]:
    """Groups of the system itself."""
    opened = MemoryGroups.open(NAME)
    if isinstance(opened, str):
        assert not os.access("/sys/fs/cgroup/memory", os.W_OK), opened
        pytest.skip(f"no memory groups here: {opened}")
    yield opened
    opened.close()
    assert not folder_of(opened).exists()


@contextmanager
def waiting(code: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A child that runs `code` once it has read a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def folder_of(made: MemoryGroups | MemoryGroup) -> Path:
    return made._folder


def opened(name: str, root: Path, membership: Path) -> MemoryGroups:
    """Groups that can be opened."""
    made = MemoryGroups.open(name, root=root, membership=membership)
    assert isinstance(made, MemoryGroups), made
    return made


def refusal(root: Path, membership: Path) -> str:
    """The reason why there can be no groups."""
    reason = MemoryGroups.open("service", root=root, membership=membership)
    assert isinstance(reason, str)
    return reason


def lay_out(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)


def member_of(tmp_path: Path, *lines: str) -> Path:
    """A file that says which groups this process is in."""
    path = tmp_path / "membership"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hierarchy of version 2 in whose root this process is; new folders get their files."""
    root = tmp_path / "cgroup"
    lay_out(root, {**V2_FILES, "cgroup.procs": f"1\n{os.getpid()}\n"})
    mkdir, rmdir = Path.mkdir, Path.rmdir

    def make(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        there = path.exists()
        mkdir(path, mode, parents, exist_ok)
        if root in path.parents and not there:
            enabled = "memory" in (path.parent / "cgroup.subtree_control").read_text()
            lay_out(path, V2_FILES | (V2_MEMORY_FILES if enabled else {}))

    def remove(path: Path) -> None:
        if root in path.parents and path.exists():
            if (path / "cgroup.procs").read_text():
                raise OSError(errno.EBUSY, "busy", str(path))
            for file in path.iterdir():
                if file.is_file():
                    file.unlink()
        rmdir(path)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", remove)
    return root


def test_a_process_over_the_limit_is_killed(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    with waiting(ALLOCATE, "200") as child:
        group.add(child.pid)
        assert child.communicate("\n")[0] == ""
    assert child.returncode == -signal.SIGKILL
    assert group.oom_kills() == 1
    use = group.use()
    assert use.limit == group.limit == LIMIT
    assert 0.9 * LIMIT < use.used <= LIMIT
    group.remove()
    assert not folder_of(group).exists()


def test_a_process_within_the_limit_is_not_touched(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    with waiting(ALLOCATE, "32") as child:
        group.add(child.pid)
        assert child.communicate("\n")[0] == "done\n"
    assert child.returncode == 0
    assert group.oom_kills() == 0
    assert 32 * MIB < group.use().used < LIMIT
    group.remove()
    assert not folder_of(group).exists()


def test_children_are_limited_as_well(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    with waiting(ALLOCATE_IN_A_CHILD, "200") as child:
        group.add(child.pid)
        output, _ = child.communicate("\n")
    # Version 1 kills the greatest process of the group, version 2 all of them.
    assert output == "-9\n" or child.returncode == -signal.SIGKILL
    assert group.oom_kills() >= 1


def test_what_a_process_had_before_counts_for_nothing(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    with waiting("data = b'x' * (100 << 20); print('ready', flush=True); input()") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        group.add(child.pid)
        child.communicate("\n")
    assert child.returncode == 0
    assert group.use().used < LIMIT / 2


def test_each_group_has_its_own_limit(groups: MemoryGroups) -> None:
    small, large = groups.create("small", LIMIT), groups.create("large", 4 * LIMIT)
    with waiting(ALLOCATE, "100") as one, waiting(ALLOCATE, "100") as other:
        small.add(one.pid)
        large.add(other.pid)
        assert one.communicate("\n")[0] == ""
        assert other.communicate("\n")[0] == "done\n"
    assert (small.oom_kills(), large.oom_kills()) == (1, 0)
    assert large.use().used > 100 * MIB


def test_a_limit_need_not_be_whole_pages(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT + 1)
    assert group.limit == group.use().limit == LIMIT + 1


def test_a_group_that_cannot_be_made_leaves_nothing(groups: MemoryGroups) -> None:
    with pytest.raises(OSError, match=r"Invalid argument: '.*/kernel/memory"):
        groups.create("kernel", -5)
    assert not (folder_of(groups) / "kernel").exists()


def test_a_group_that_is_there_is_not_made_again(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    with pytest.raises(FileExistsError):
        groups.create("kernel", LIMIT)
    assert group.use().used >= 0


def test_a_process_that_has_gone_cannot_be_added(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    with waiting("") as child:
        pass
    with pytest.raises(ProcessLookupError):
        group.add(child.pid)


def test_a_group_is_removed_once_its_process_lets_go_of_it(
    groups: MemoryGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = groups.create("kernel", LIMIT)
    with waiting("input()") as child:
        group.add(child.pid)
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            child.kill()

        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", pause)
            group.remove()
    assert pauses
    assert not folder_of(group).exists()
    group.remove()


def test_groups_made_in_a_group_go_with_it(groups: MemoryGroups) -> None:
    group = groups.create("kernel", LIMIT)
    (folder_of(group) / "service" / "kernel").mkdir(parents=True)
    group.remove()
    assert not folder_of(group).exists()


def test_a_group_with_a_process_stays(
    groups: MemoryGroups, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    busy, idle = groups.create("busy", LIMIT), groups.create("idle", LIMIT)
    with waiting("input()") as child:
        busy.add(child.pid)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(cgroup, "_REMOVE_TIMEOUT", 0.0)
            with pytest.raises(OSError, match="busy"):
                busy.remove()
            groups.close()
        assert folder_of(busy).exists()
        assert not folder_of(idle).exists()
    assert f"a memory group is left: [Errno 16] Device or resource busy: '{folder_of(busy)}'" in (
        caplog.messages
    )
    groups.close()
    assert not folder_of(groups).exists()
    groups.close()


def test_a_folder_that_was_left_is_taken_over(groups: MemoryGroups) -> None:
    groups.create("kernel", LIMIT)
    again = MemoryGroups.open(NAME)
    assert isinstance(again, MemoryGroups)
    again.close()
    assert not folder_of(again).exists()


def test_version_2_sets_what_the_system_has(v2: Path, tmp_path: Path) -> None:
    groups = opened("service", v2, member_of(tmp_path, "0::/"))
    assert (v2 / "cgroup.subtree_control").read_text() == "+memory"
    assert (v2 / "service" / "cgroup.subtree_control").read_text() == "+memory"

    group = groups.create("kernel", 1000)
    folder = v2 / "service" / "kernel"
    assert (folder / "memory.max").read_text() == "1000"
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "memory.oom.group").read_text() == "1"
    assert group.use() == MemoryUse(used=8192, limit=1000)
    assert group.oom_kills() == 2

    group.add(4321)
    assert (folder / "cgroup.procs").read_text() == "4321"
    (folder / "cgroup.procs").write_text("")
    group.remove()
    groups.close()
    assert not (v2 / "service").exists()


def test_version_2_of_an_older_system(
    v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("memory.swap.max", "memory.oom.group", "memory.peak"):
        monkeypatch.delitem(V2_MEMORY_FILES, file)
    monkeypatch.setitem(V2_MEMORY_FILES, "memory.events", "low 0\n")
    group = opened("service", v2, member_of(tmp_path, "0::/")).create("kernel", 1000)
    assert not (v2 / "service" / "kernel" / "memory.swap.max").exists()
    assert group.use() == MemoryUse(used=4096, limit=1000)
    assert group.oom_kills() == 0


def test_version_2_leaves_on_what_is_on(v2: Path, tmp_path: Path) -> None:
    (v2 / "cgroup.subtree_control").write_text("cpu memory\n")
    opened("service", v2, member_of(tmp_path, "0::/")).close()
    assert (v2 / "cgroup.subtree_control").read_text() == "cpu memory\n"


def test_version_2_moves_nobody(v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: Path, value: str) -> None:
        raise OSError(errno.EBUSY, "busy", str(path))

    monkeypatch.setattr(cgroup, "_write", busy)
    reason = refusal(v2, member_of(tmp_path, "0::/"))
    assert reason == f"{v2} holds processes, so no group in it can limit memory"
    assert not (v2 / "service").exists()


def test_version_2_may_refuse_otherwise(
    v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, value: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(cgroup, "_write", denied)
    reason = refusal(v2, member_of(tmp_path, "0::/"))
    assert reason == f"[Errno 13] Permission denied: '{v2}/cgroup.subtree_control'"
    assert not (v2 / "service").exists()


def test_version_2_may_lack_the_controller(v2: Path, tmp_path: Path) -> None:
    (v2 / "cgroup.controllers").write_text("cpu pids\n")
    assert refusal(v2, member_of(tmp_path, "0::/")) == f"{v2} does not control memory"
    assert not (v2 / "service").exists()


def test_version_2_beside_version_1(v2: Path, tmp_path: Path) -> None:
    membership = member_of(tmp_path, "4:cpu,cpuacct:/a", "1:name=systemd:/a", "0::/a:b")
    lay_out(v2 / "unified" / "a:b", {**V2_FILES, "cgroup.procs": str(os.getpid())})
    groups = opened("service", v2, membership)
    assert folder_of(groups) == v2 / "unified" / "a:b" / "service"


def test_version_1_beside_version_2(tmp_path: Path) -> None:
    own = tmp_path / "memory" / "a" / "b"
    lay_out(own, {"cgroup.procs": str(os.getpid()), "memory.limit_in_bytes": ""})
    membership = member_of(tmp_path, "4:cpu,memory:/a/b", "0::/")
    assert folder_of(opened("service", tmp_path, membership)) == own / "service"


def test_a_container_sees_the_lower_part_of_the_hierarchy(tmp_path: Path) -> None:
    own = tmp_path / "memory" / "b"
    lay_out(own, {"cgroup.procs": str(os.getpid()), "memory.limit_in_bytes": ""})
    membership = member_of(tmp_path, "4:memory:/docker/a/b")
    assert folder_of(opened("service", tmp_path, membership)) == own / "service"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["4:memory:/a"], "the group /a of this process is not to be seen in {root}/memory"),
        (["0::/../a"], "the group /../a of this process is not to be seen in {root}"),
        (["2:cpu:/a"], "{root}/membership names no group that could control memory"),
    ],
)
def test_a_system_without_the_files_has_no_groups(
    tmp_path: Path, lines: list[str], reason: str
) -> None:
    assert refusal(tmp_path, member_of(tmp_path, *lines)) == reason.format(root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["membership"]


def test_a_group_of_others_is_not_ours(tmp_path: Path) -> None:
    lay_out(tmp_path / "memory", {"cgroup.procs": "1\n", "memory.limit_in_bytes": ""})
    assert "not to be seen" in refusal(tmp_path, member_of(tmp_path, "4:memory:/"))


def test_a_hierarchy_that_is_something_else_has_no_groups(tmp_path: Path) -> None:
    lay_out(tmp_path / "memory", {"cgroup.procs": str(os.getpid())})
    reason = refusal(tmp_path, member_of(tmp_path, "4:memory:/"))
    assert reason == f"{tmp_path}/memory does not control memory"


def test_a_system_that_does_not_tell_has_no_groups(tmp_path: Path) -> None:
    reason = refusal(tmp_path, tmp_path / "missing")
    assert reason == f"[Errno 2] No such file or directory: '{tmp_path}/missing'"
