"""Clients' paths: what they lead to, and that they lead nowhere else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelagent.errors import ApiError, InvalidPath, PathNotAllowed
from kernelagent.files.fs import syscalls
from kernelagent.files.fs.paths import Roots


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A root with something in it, beside something that is none."""
    workspace = tmp_path / "workspace"
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "b" / "file").write_text("inside")
    (workspace / "state").mkdir()
    (workspace / "state" / "key").write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("other root")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    return workspace


@pytest.fixture(params=[True, False], ids=["openat2", "walk"])
def roots(request: pytest.FixtureRequest, workspace: Path, tmp_path: Path) -> Iterator[Roots]:
    """Both ways to resolve a path."""
    closed = [workspace / "state"]
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    yield Roots(workspace, [tmp_path / "other"], closed, beneath=request.param)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def read(roots: Roots, path: str) -> str:
    with roots.locate(path) as place, os.fdopen(place.open(os.O_RDONLY)) as file:
        return file.read()


def test_this_system_has_its_own_check() -> None:
    assert syscalls.can_openat2()


@pytest.mark.parametrize(
    "path",
    [
        "a/b/file",
        "./a//b/./file",
        "a/../a/b/../b/file",
        "{ws}/a/b/file",
        "//{ws}/a/b/file",
        "{ws}/../workspace/a/b/file",
        "relative",
        "absolute",
        "chain",
        "directory/b/file",
        "directory/../a/b/file",
    ],
)
def test_paths_that_lead_inside(roots: Roots, workspace: Path, path: str) -> None:
    (workspace / "relative").symlink_to("a/b/file")
    (workspace / "absolute").symlink_to(workspace / "a" / "b" / "file")
    (workspace / "chain").symlink_to("absolute")
    (workspace / "directory").symlink_to(workspace / "a")
    assert read(roots, path.replace("{ws}", str(workspace))) == "inside"


def test_a_link_may_lead_to_another_root(roots: Roots, workspace: Path, tmp_path: Path) -> None:
    (workspace / "to-other").symlink_to(tmp_path / "other")
    (workspace / "up").symlink_to("../other/file")
    assert read(roots, "to-other/file") == "other root"
    assert read(roots, "up") == "other root"
    assert read(roots, "../other/file") == "other root"
    assert read(roots, str(tmp_path / "other" / "file")) == "other root"


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside/file",
        "a/../../outside/file",
        "{tmp}/outside/file",
        "{ws}/../outside/file",
        "/",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/fd/0",
        "out-absolute",
        "out-relative",
        "out-directory/file",
        "to-proc/root{tmp}/outside/file",
        "out-directory/../workspace/a/b/file/../../../../outside/file",
        "state",
        "state/key",
        "a/../state/key",
        "to-state/key",
        "{ws}/state/../state/key",
        "{ws}2/file",
    ],
)
def test_paths_that_lead_outside(roots: Roots, workspace: Path, tmp_path: Path, path: str) -> None:
    (workspace / "out-absolute").symlink_to(tmp_path / "outside" / "file")
    (workspace / "out-relative").symlink_to("../outside/file")
    (workspace / "out-directory").symlink_to("../outside")
    (workspace / "to-proc").symlink_to("/proc/self")
    (workspace / "to-state").symlink_to("state")
    with pytest.raises(PathNotAllowed):
        read(roots, path.replace("{ws}", str(workspace)).replace("{tmp}", str(tmp_path)))


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 256, "x/" * 3000, "é" * 200])
def test_paths_that_cannot_be(roots: Roots, path: str) -> None:
    with pytest.raises(InvalidPath):
        roots.locate(path)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("loop", errno.ELOOP),
        ("missing/file", errno.ENOENT),
        ("a/b/file/x", errno.ENOTDIR),
        ("dangling/x", errno.ENOENT),
    ],
)
def test_paths_that_lead_nowhere(roots: Roots, workspace: Path, path: str, number: int) -> None:
    (workspace / "loop").symlink_to("loop")
    (workspace / "dangling").symlink_to("nothing")
    with pytest.raises(OSError) as caught:
        roots.locate(path)
    assert caught.value.errno == number


def test_a_link_itself(roots: Roots, workspace: Path) -> None:
    (workspace / "link").symlink_to("/etc/passwd")
    with roots.locate("link", follow=False) as place:
        assert os.readlink(place.name, dir_fd=place.directory) == "/etc/passwd"


def test_a_link_that_has_taken_the_place_is_not_followed(
    roots: Roots, workspace: Path, tmp_path: Path
) -> None:
    file = workspace / "a" / "b" / "file"
    with roots.locate("a/b/file") as place:
        file.unlink()
        file.symlink_to(tmp_path / "outside" / "file")
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT):
            with pytest.raises(OSError) as caught:
                place.open(flags)
            assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "outside" / "file").read_text() == "secret"


def test_missing_directories_are_made(roots: Roots, workspace: Path, tmp_path: Path) -> None:
    (workspace / "link").symlink_to("target")
    (workspace / "target").mkdir()
    with roots.locate("link/x/y/z", make_mode=0o700) as place:
        assert place.name == "z"
    assert (workspace / "target" / "x" / "y").is_dir()
    assert not (workspace / "target" / "x" / "y" / "z").exists()
    with pytest.raises(PathNotAllowed):
        roots.locate("../made/x", make_mode=0o700)
    assert not (tmp_path / "made").exists()


def test_a_missing_root_is_made(tmp_path: Path) -> None:
    roots = Roots(tmp_path / "workspace", [tmp_path / "app"])
    with pytest.raises(FileNotFoundError):
        roots.locate(str(tmp_path / "app" / "x"))
    roots.locate(str(tmp_path / "app" / "x"), make_mode=0o755).close()
    assert (tmp_path / "app").is_dir()


def test_the_root_itself(roots: Roots, workspace: Path) -> None:
    for path in (".", str(workspace), "a/..", f"{workspace}/a/b/../../"):
        with roots.locate(path) as place:
            assert place.facts().st_ino == workspace.stat().st_ino


def test_a_root_that_was_replaced_by_a_link(roots: Roots, workspace: Path, tmp_path: Path) -> None:
    workspace.rename(tmp_path / "old")
    workspace.symlink_to(tmp_path / "outside")
    with pytest.raises(PathNotAllowed):
        roots.locate("file")


def test_a_root_behind_a_link_has_two_names(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(workspace)
    roots = Roots(tmp_path / "alias", [])
    assert read(roots, str(tmp_path / "alias" / "a" / "b" / "file")) == "inside"
    assert read(roots, str(workspace / "a" / "b" / "file")) == "inside"
    with pytest.raises(PathNotAllowed):
        roots.locate(str(tmp_path / "outside" / "file"))


def test_a_closed_directory_stays_closed_under_another_name(roots: Roots, workspace: Path) -> None:
    with pytest.raises(PathNotAllowed):
        roots.locate("state/key")
    (workspace / "state").rename(workspace / "a" / "renamed")
    for path in ("a/renamed", "a/renamed/key", "a/renamed/new"):
        with pytest.raises(ApiError):
            roots.locate(path)


def test_what_holds_a_protected_directory(roots: Roots, workspace: Path, tmp_path: Path) -> None:
    from kernelagent.files.fs.paths import Identity

    for path, holds in ((workspace, True), (tmp_path, True), (workspace / "a", False)):
        assert roots.holds_protected(Identity.of(path.stat())) is holds
