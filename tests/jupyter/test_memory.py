"""Memory limits: what a machine allows, and when a kernel has used too much."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest.mock import create_autospec

import psutil
import pytest

from kernelagent.jupyter import memory
from kernelagent.jupyter.memory import KernelMemory, default_limit, oom_kills
from kernelagent.processes.cgroup import MemoryGroup, MemoryUse
from tests.waiting import PATIENCE

TOTAL = psutil.virtual_memory().total


def limited_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *limits: str) -> None:
    """Have the files of the control groups say `limits`."""
    paths = []
    for number, text in enumerate(limits):
        path = tmp_path / f"limit{number}"
        path.write_text(text)
        paths.append(path)
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (*paths, tmp_path / "missing"))


def measured(
    monkeypatch: pytest.MonkeyPatch, *, resident: list[int], exact: list[int]
) -> list[str]:
    """Have the two measures give these numbers, one after the other; the list of what was asked."""
    asked: list[str] = []

    def next_of(name: str, numbers: list[int]) -> int:
        asked.append(name)
        return numbers.pop(0)

    monkeypatch.setattr(memory, "resident_memory", lambda _: next_of("resident", resident))
    monkeypatch.setattr(memory, "tree_memory", lambda _: next_of("exact", exact))
    monkeypatch.setattr(memory, "_INTERVAL", 0.001)
    return asked


def test_the_default_is_three_quarters_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_to(tmp_path, monkeypatch)
    assert default_limit() == int(TOTAL * 0.75)


def test_a_container_allows_less_than_its_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_to(tmp_path, monkeypatch, "104857600\n")
    assert default_limit() == 75 * 2**20


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "", "garbage"])
def test_a_container_without_a_limit_allows_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    limited_to(tmp_path, monkeypatch, text)
    assert default_limit() == int(TOTAL * 0.75)


async def test_a_process_is_watched_until_it_uses_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = measured(monkeypatch, resident=[10, 100, 101], exact=[150])
    assert await KernelMemory(100).watch(1) == MemoryUse(used=150, limit=100)
    assert asked == ["resident", "resident", "resident", "exact"]


async def test_pages_that_are_counted_twice_are_no_excess(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, resident=[300, 300, 300], exact=[90, 100, 101])
    assert await KernelMemory(100).watch(1) == MemoryUse(used=101, limit=100)
    assert asked == ["resident", "exact"] * 3


async def test_a_real_process_is_measured() -> None:
    async with asyncio.timeout(PATIENCE):
        excess = await KernelMemory(2**20).watch(os.getpid())
    assert excess.limit == 2**20
    assert 2**20 < excess.used < TOTAL


async def test_a_process_that_has_gone_is_watched_for_nothing() -> None:
    watch = asyncio.create_task(KernelMemory(0).watch(2**22 + 1))
    await asyncio.sleep(0.05)
    assert not watch.done()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


def test_the_kills_of_the_system_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert oom_kills() >= 0
    monkeypatch.setattr(Path, "read_text", lambda _: "nr_free_pages 7\noom_kill 3\n")
    assert oom_kills() == 3


def test_kills_of_others_are_not_taken_for_those_of_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = create_autospec(MemoryGroup, instance=True)
    grouped, alone = KernelMemory(100, group), KernelMemory(100)
    kills = oom_kills() + 1
    monkeypatch.setattr(memory, "oom_kills", lambda: kills)
    assert (grouped.killed_by_system(), alone.killed_by_system()) == (False, True)


def test_a_system_that_does_not_count_its_kills_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "nr_free_pages 7\n")
    assert oom_kills() == 0

    def unreadable(_: Path) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert oom_kills() == 0
