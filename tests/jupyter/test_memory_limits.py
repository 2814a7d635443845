"""What a kernel may use of memory, on real kernels: by memory groups, and by watching."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernelagent.outcome import Outcome
from kernelagent.processes.cgroup import MemoryGroups
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.sessions.execution import Result
from kernelagent.sessions.session import Session
from kernelagent.settings import Settings
from tests.engines import run, text_of
from tests.waiting import PATIENCE, until

LIMIT = 300 * 2**20
# Takes the memory at once: faster than anybody can watch.
BOMB = "bomb = b'x' * (1 << 30)"


CHANGES = {"kernel_memory": LIMIT, "pool_idle": 0, "preload": ()}


@pytest.fixture
def limited(settings: Settings) -> Settings:
    return settings.model_copy(update=CHANGES)


@pytest.fixture(scope="module")
async def limited_engine(module_settings: Settings) -> AsyncIterator[Engine]:
    """An engine whose kernels are limited, for sessions of the tests' own."""
    async with open_engine(module_settings.model_copy(update=CHANGES)) as engine:
        yield engine


@pytest.fixture
async def session(limited_engine: Engine) -> AsyncIterator[Session]:
    """A session of which the test may lose the state."""
    session = await limited_engine.create_session()
    yield session
    await limited_engine.close_session(session.id)


@pytest.fixture
def watched(limited: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for an engine that cannot make memory groups."""
    monkeypatch.setattr(MemoryGroups, "open", lambda _: "the test says so")
    return limited.model_copy(update={"fork_server": False})


def need_groups(engine: Engine) -> None:
    """The real thing, where the system lets us."""
    facts = engine.memory_facts
    if facts["by"] != "cgroup":
        pytest.skip(f"memory groups cannot be made here: {facts['reason']}")


def numbers(result: Result) -> tuple[int, int]:
    """MiB that were used and that are allowed, as the message tells them."""
    found = re.search(r"used (\d+) MiB of memory, (\d+) MiB are allowed", result.message)
    assert found, result.message
    return int(found[1]), int(found[2])


async def test_a_group_ends_a_bomb_with_its_numbers(
    limited_engine: Engine, session: Session
) -> None:
    need_groups(limited_engine)
    result = await run(session, BOMB)
    assert (result.outcome, result.exit_code) == (Outcome.OUT_OF_MEMORY, 137)
    assert result.state_lost
    used, allowed = numbers(result)
    assert (used, allowed) == (300, 300)
    assert (await run(session, "1")).outcome is Outcome.OK


async def test_a_child_that_the_group_ends_is_told_and_the_state_kept(
    limited_engine: Engine, session: Session
) -> None:
    need_groups(limited_engine)
    code = (
        "import subprocess, sys\nkept = 1\n"
        f"print(subprocess.run([sys.executable, '-c', {BOMB!r}]).returncode)"
    )
    result = await run(session, code)
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert not result.state_lost
    assert "a process that the run had started was killed" in result.message
    assert result.outputs[0]["text"] == "-9\n"
    assert (await run(session, "kept")).outcome is Outcome.OK


async def test_a_branch_has_a_limit_of_its_own(limited_engine: Engine, session: Session) -> None:
    need_groups(limited_engine)
    await run(session, "kept = b'x' * (200 << 20)")
    branch = await limited_engine.branch_session(session, wait=PATIENCE)
    # What it shares is not counted twice.
    fits = await run(branch, "more = b'x' * (120 << 20); len(kept)")
    assert fits.outcome is Outcome.OK
    bomb = await run(branch, BOMB)
    assert bomb.outcome is Outcome.OUT_OF_MEMORY
    assert (await run(session, "len(kept)")).outcome is Outcome.OK
    await limited_engine.close_session(branch.id)


async def test_groups_go_with_their_kernels_and_the_engine(limited: Settings) -> None:
    async with open_engine(limited) as engine:
        need_groups(engine)
        session = await engine.create_session()
        assert session.kernel is not None
        group = session.kernel.memory.group
        assert group is not None
        assert group.join_file is not None
        folder = group.join_file.parent
        assert str(session.kernel.pid) in (folder / "tasks").read_text().split()
        checkpoint = await engine.make_checkpoint(session, wait=PATIENCE)
        parked = checkpoint.parked.process.pid
        await until(lambda: str(parked) not in (folder / "tasks").read_text().split())
        await engine.close_session(session.id)
        assert not folder.exists()
        assert folder.parent.exists()
    assert not folder.parent.exists()


async def test_without_groups_the_memory_is_watched(watched: Settings) -> None:
    async with open_engine(watched) as engine:
        assert engine.memory_facts["reason"] == "the test says so"
        grow = "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))"
        result = await run(engine.session("default"), grow)
        assert result.outcome is Outcome.OUT_OF_MEMORY
        used, allowed = numbers(result)
        assert used > allowed == 300


async def test_a_group_that_cannot_be_made_does_not_keep_a_kernel_from_starting(
    limited_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no more groups")

    monkeypatch.setattr(MemoryGroups, "create", refuse)
    session = await limited_engine.create_session()
    assert (await run(session, "1")).outcome is Outcome.OK
    await limited_engine.close_session(session.id)


async def test_a_plain_kernel_is_in_a_group_too(limited: Settings) -> None:
    async with open_engine(limited.model_copy(update={"fork_server": False})) as engine:
        need_groups(engine)
        session = await engine.create_session()
        assert session.kernel is not None
        groups = Path(f"/proc/{session.kernel.pid}/cgroup").read_text()
        assert session.kernel.id in groups
        assert (await run(session, BOMB)).outcome is Outcome.OUT_OF_MEMORY


async def test_a_memory_bomb_ends_with_its_numbers(session: Session) -> None:
    result = await run(session, "print('on')\nhog = []\nwhile True: hog.append(bytes(10**7))")
    assert (result.outcome, result.exit_code) == (Outcome.OUT_OF_MEMORY, 137)
    assert "300 MiB" in result.message
    assert text_of(result) == "on\n"
    assert (await run(session, "1")).outcome is Outcome.OK


async def test_children_of_the_code_count_as_its_memory(session: Session) -> None:
    code = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = b\"1\" * 400_000_000; input()'],"
        " stdin=subprocess.PIPE, timeout=60)"
    )
    result = await run(session, code)
    assert result.outcome is Outcome.OUT_OF_MEMORY
