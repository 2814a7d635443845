"""Files of excess output: complete, in order, bounded, and nowhere but in their folder."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from kernelagent.workspace.spill import Spill
from tests.jupyter.leaks import descriptors

FOLDER = Path(".kernelagent") / "outputs"


def files_below(folder: Path) -> list[Path]:
    """Every file in `folder`."""
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1000)
    assert spill.write("stdout.txt", b"") is None
    await spill.close()
    assert list(tmp_path.iterdir()) == []
    assert (spill.files, spill.lost) == ({}, 0)


async def test_pieces_of_several_files_arrive_whole_and_in_order(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1 << 20)
    names = ("stdout.txt", "stderr.txt", "00001.png")
    for number in range(1000):
        for name in names:
            assert spill.write(name, b"%d " % number) == tmp_path / FOLDER / "exec_1" / name
        if number % 100 == 0:
            # The writer gets a turn, so that files are taken up again.
            await asyncio.sleep(0)
    await spill.close()
    everything = b"".join(b"%d " % number for number in range(1000))
    for name in names:
        assert (spill.directory / name).read_bytes() == everything
        assert spill.files[name].bytes == len(everything)
    assert spill.lost == 0
    assert {path.name for path in spill.directory.iterdir()} == set(names)


async def test_what_exceeds_the_limit_is_lost_and_counted(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 10)
    assert spill.write("stdout.txt", b"12345678") is not None
    assert spill.write("stderr.txt", b"abcd") is not None
    assert spill.write("stdout.txt", b"more") is not None
    assert spill.write("00001.png", b"more") is None
    await spill.close()
    assert (spill.directory / "stdout.txt").read_bytes() == b"12345678"
    assert (spill.directory / "stderr.txt").read_bytes() == b"ab"
    assert spill.lost == 2 + 4 + 4
    assert list(spill.files) == ["stdout.txt", "stderr.txt"]


async def test_data_that_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1 << 40)
    # One object many times: the test itself needs no more memory than that.
    data = bytes(16 << 20)
    for _ in range(10):
        spill.write("stdout.txt", data)
    await spill.close()
    assert (spill.directory / "stdout.txt").stat().st_size == 64 << 20
    assert spill.lost == 96 << 20


@pytest.mark.parametrize("place", [".kernelagent", ".kernelagent/outputs", str(FOLDER / "exec_1")])
async def test_a_planted_link_to_a_folder_is_refused(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere, workspace = tmp_path / "elsewhere", tmp_path / "workspace"
    elsewhere.mkdir()
    (workspace / place).parent.mkdir(parents=True)
    (workspace / place).symlink_to(elsewhere)
    before = descriptors(collect=False)
    spill = Spill(workspace, "exec_1", 1000)
    spill.write("stdout.txt", b"secret")
    with caplog.at_level(logging.WARNING):
        await spill.close()
    assert list(elsewhere.iterdir()) == []
    assert files_below(workspace) == []
    assert (spill.lost, spill.files["stdout.txt"].bytes) == (6, 0)
    assert "could not be written" in caplog.text
    assert descriptors(collect=False) == before


async def test_a_planted_link_to_a_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    for kind in ("symbolic", "hard"):
        spill = Spill(tmp_path / "workspace", kind, 1000)
        spill.directory.mkdir(parents=True)
        if kind == "symbolic":
            (spill.directory / "stdout.txt").symlink_to(target)
        else:
            (spill.directory / "stdout.txt").hardlink_to(target)
        spill.write("stdout.txt", b"overwritten")
        await spill.close()
        assert target.read_bytes() == b"precious"
        assert spill.lost == len(b"overwritten")


async def test_a_planted_pipe_does_not_block(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1000)
    spill.directory.mkdir(parents=True)
    os.mkfifo(spill.directory / "stdout.txt")
    spill.write("stdout.txt", b"x")
    await spill.close()
    assert spill.lost == 1


async def test_links_planted_while_a_run_writes_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    spill = Spill(tmp_path, "exec_1", 1000)
    file = spill.write("stdout.txt", b"first")
    assert file is not None
    while not file.exists():
        await asyncio.sleep(0)
    file.unlink()
    file.symlink_to(target)
    spill.write("stdout.txt", b"second")
    await spill.close()
    assert target.read_bytes() == b"precious"


async def test_a_workspace_that_cannot_be_written_loses_and_counts(tmp_path: Path) -> None:
    workspace = tmp_path / "no directory"
    workspace.write_text("")
    spill = Spill(workspace, "exec_1", 1000)
    spill.write("stdout.txt", b"abc")
    spill.write("stderr.txt", b"de")
    await spill.close()
    assert spill.lost == 5
    assert [file.bytes for file in spill.files.values()] == [0, 0]


async def test_after_a_failure_nothing_more_is_tried(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "missing", "exec_1", 1000)
    spill.write("stdout.txt", b"abc")
    while spill.lost == 0:
        await asyncio.sleep(0)
    assert spill.write("stderr.txt", b"de") is None
    await spill.close()
    assert spill.lost == 5
    assert not (tmp_path / "missing").exists()


async def test_files_written_before_a_failure_are_counted_as_written(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1000)
    spill.directory.mkdir(parents=True)
    (spill.directory / "b").mkdir()
    spill.write("a", b"abc")
    spill.write("b", b"de")
    spill.write("c", b"f")
    await spill.close()
    assert spill.lost == 3
    assert {name: file.bytes for name, file in spill.files.items()} == {"a": 3, "b": 0, "c": 0}
    assert (spill.directory / "a").read_bytes() == b"abc"


async def test_the_folders_of_the_newest_hundred_runs_are_kept(tmp_path: Path) -> None:
    old = [tmp_path / FOLDER / f"old_{number:03}" for number in range(150)]
    for age, run in enumerate(reversed(old), 1):
        run.mkdir(parents=True)
        (run / "stdout.txt").write_text("x")
        os.utime(run, (1_000_000 - age, 1_000_000 - age))
    spill = Spill(tmp_path, "exec_1", 1000)
    spill.write("stdout.txt", b"x")
    await spill.close()
    kept = {path.name for path in (tmp_path / FOLDER).iterdir()}
    assert kept == {"exec_1", *(run.name for run in old[51:])}


async def test_pruning_follows_no_links(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (tmp_path / FOLDER).mkdir(parents=True)
    for number in range(150):
        link = tmp_path / FOLDER / f"link_{number}"
        link.symlink_to(precious)
        os.utime(link, (1000, 1000), follow_symlinks=False)
    spill = Spill(tmp_path, "exec_1", 1000)
    spill.write("stdout.txt", b"x")
    await spill.close()
    assert (precious / "file").exists()
    assert (spill.directory / "stdout.txt").read_bytes() == b"x"


async def test_many_runs_at_once_disturb_each_other_not(tmp_path: Path) -> None:
    spills = [Spill(tmp_path, f"exec_{number}", 1000) for number in range(90)]
    for spill in spills:
        spill.write("stdout.txt", b"x")
    await asyncio.gather(*(spill.close() for spill in spills))
    assert [spill.lost for spill in spills] == [0] * 90
    assert len(files_below(tmp_path)) == 90


async def test_closing_may_be_repeated(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1000)
    spill.write("stdout.txt", b"x")
    await asyncio.gather(spill.close(), spill.close())
    await spill.close()
    assert (spill.directory / "stdout.txt").read_bytes() == b"x"


async def test_what_comes_after_closing_is_lost(tmp_path: Path) -> None:
    before = descriptors(collect=False)
    spill = Spill(tmp_path, "exec_1", 1000)
    spill.write("stdout.txt", b"x")
    await spill.close()
    spill.write("stdout.txt", b"late")
    await spill.close()
    assert (spill.directory / "stdout.txt").read_bytes() == b"x"
    assert spill.lost == 4
    assert descriptors(collect=False) == before


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = descriptors(collect=False)
    for number in range(20):
        spill = Spill(tmp_path, f"exec_{number}", 1000)
        for name in ("a", "b", "c"):
            spill.write(name, b"x")
        await spill.close()
    assert descriptors(collect=False) == before


async def test_a_caller_that_is_cancelled_while_it_closes_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors(collect=False)
    spill = Spill(tmp_path, "exec_1", 1 << 30)
    spill.write("stdout.txt", bytes(8 << 20))
    closing = asyncio.create_task(spill.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await spill.close()
    assert (spill.directory / "stdout.txt").stat().st_size == 8 << 20
    assert descriptors(collect=False) == before


async def test_a_run_may_have_more_files_than_descriptors(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "exec_1", 1 << 20)
    before = descriptors(collect=False)
    most = 0
    for number in range(900):
        spill.write(f"{number:05}.txt", b"x")
        if number % 50 == 0:
            await asyncio.sleep(0)
            most = max(most, descriptors(collect=False))
    await spill.close()
    assert len(list(spill.directory.iterdir())) == 900
    assert most - before < 10
