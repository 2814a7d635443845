"""The host kernel, forked and plain, around a host that does what each line of a cell says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpec

from kernelagent.errors import (
    BranchRefused,
    ConfigurationError,
    DirectoryNotFound,
    KernelStartFailed,
    SessionNotFound,
)
from kernelagent.jupyter.events import Prompt
from kernelagent.jupyter.languages import Language, Languages, kernels_directory
from kernelagent.jupyter.messages import Message
from kernelagent.jupyter.outputs import Budget
from kernelagent.outcome import Outcome
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.sessions.events import Feed
from kernelagent.sessions.execution import Result, RunRequest
from kernelagent.sessions.session import Session
from kernelagent.settings import Settings
from tests.engines import settings_below
from tests.waiting import PATIENCE, until

MIRROR = Path(__file__).with_name("mirror")


def mirror(tmp_path: Path) -> Language:
    """The language of the mirror host, with a kernelspec of its own."""
    folder = tmp_path / "mirror"
    shutil.copytree(MIRROR, folder)
    spec = (folder / "kernel.json").read_text()
    (folder / "kernel.json").write_text(spec.replace("KERNELS", str(kernels_directory())))
    return Language("mirror", (), KernelSpec.from_resource_dir(str(folder)))


@contextlib.asynccontextmanager
async def engine_in(folder: Path, **changes: Any) -> AsyncIterator[Engine]:
    """An engine that knows the mirror only."""
    with settings_below(folder, **changes) as settings:
        async with open_engine(settings, Languages([mirror(folder)])) as engine:
            yield engine


@pytest.fixture(scope="module", params=["forked", "plain"])
async def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """The engine of the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("mirror")
    forks = request.param == "forked"
    async with engine_in(folder, fork_server=forks, interrupt_grace=PATIENCE) as engine:
        yield engine


@contextlib.asynccontextmanager
async def session_on(engine: Engine) -> AsyncIterator[Session]:
    """A session on the mirror."""
    before = engine.fork_server_facts
    session = await engine.create_session(language="mirror")
    facts = engine.fork_server_facts
    # None has been started by itself for want of a fork server.
    assert not facts or facts["mirror"] | {"pid": 0} == {
        "state": "ready",
        "reason": "",
        "kernel": "host",
        "pid": 0,
        "forks": before["mirror"]["forks"] + 1,
        "restarts": 0,
    }
    yield session
    with contextlib.suppress(SessionNotFound):
        await engine.close_session(session.id)


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[Session]:
    """A session with a kernel of its own."""
    async with session_on(engine) as session:
        yield session


@pytest.fixture
async def fresh_engine(engine: Engine, tmp_path: Path) -> AsyncIterator[Engine]:
    """One of the same kind that has had no session; interrupted runs have little time to end."""
    forks = engine.settings.fork_server
    async with engine_in(tmp_path, fork_server=forks, interrupt_grace=0.6) as fresh:
        yield fresh


def request_of(code: str, **fields: object) -> RunRequest:
    given = dict.fromkeys(("timeout", "queue_timeout", "request_timeout"), PATIENCE)
    return RunRequest(code, **{**given, "budget": Budget(1 << 22, 1000), **fields})  # type: ignore[arg-type]


async def run(session: Session, *lines: str, **fields: object) -> Result:
    """The result of a cell of `lines`."""
    return await session.submit(request_of("\n".join(lines), **fields)).finished


def shown(result: Result) -> list[str]:
    """Streams as their text, the rest by its first value."""
    found = []
    for output in result.outputs:
        if output["output_type"] == "stream":
            found.append(f"{output['name']}: {output['text']}")
        elif output["output_type"] == "error":
            found.append(f"error: {output['ename']}")
        else:
            found.append(str(next(iter(output["data"].values()))))
    return found


async def value(session: Session, *lines: str, **fields: object) -> str:
    """The value of a cell."""
    return shown(await run(session, *lines, **fields))[-1]


async def test_outputs_of_all_kinds_come_in_order(session: Session) -> None:
    result = await run(
        session, "print a", "warn b", "show <p>", "print c", "update <q>", "value 4", "print d"
    )
    assert shown(result) == ["stdout: a\n", "stderr: b\n", "<q>", "stdout: c\n", "4", "stdout: d\n"]
    assert (result.outcome, result.exit_code, result.execution_count) == (Outcome.OK, 0, 1)
    assert result.outputs[2]["metadata"] == {} or result.outputs[2]["metadata"] == {"a": 1}
    assert result.outputs[4]["execution_count"] == 1
    assert (await run(session, "clear", "print e")).execution_count == 2


async def test_what_was_written_to_a_descriptor_before_a_message_comes_before_it(
    session: Session,
) -> None:
    for _ in range(20):
        found = shown(await run(session, "write 1x", "show y", "write 2z", "value v"))
        assert sorted(found) == ["stderr: z", "stdout: x", "v", "y"]
        assert found.index("stdout: x") < found.index("y") < found.index("v")
        assert found.index("stderr: z") < found.index("v")


async def test_bytes_that_are_cut_or_no_text_arrive(session: Session) -> None:
    result = await run(session, "bytes e282", "bytes ac", "bytes ff", "bytes e2")
    assert shown(result) == ["stdout: €\ufffd\ufffd"]


async def test_much_output_is_complete(session: Session) -> None:
    result = await run(session, "flood 100000", "value end")
    text = "".join(output.get("text", "") for output in result.outputs)
    assert text == "".join(f"{number}\n" for number in range(100_000))
    assert shown(result)[-1] == "end"


async def test_state_lives_on(session: Session) -> None:
    await run(session, "set x=41")
    assert await value(session, "get x") == "41"


async def test_a_failure_is_an_error_with_its_traceback(session: Session) -> None:
    result = await run(session, "print a", "fail of course", "print b")
    assert shown(result) == ["stdout: a\n", "error: Oops"]
    assert (result.outcome, result.exit_code, result.state_lost) == (Outcome.ERROR, 1, False)
    assert result.error is not None
    assert result.error["traceback"] == ["Cell In[1]:1", "Oops: of course"]


async def test_a_status_is_the_exit_code(session: Session) -> None:
    result = await run(session, "status 7")
    assert (result.outcome, result.exit_code) == (Outcome.ERROR, 7)
    assert result.error is not None
    assert (result.error["ename"], result.error["evalue"]) == ("ExitStatus", "7")
    assert (await run(session, "status 0")).outcome is Outcome.OK


async def test_a_note_reaches_the_caller(session: Session) -> None:
    assert (await run(session, "note be careful")).notes == ["be careful"]
    assert (await run(session, "print a")).notes == []


async def test_a_host_that_ends_is_replaced_with_a_note(session: Session) -> None:
    kernel = session.kernel
    await run(session, "set x=1")
    result = await run(session, "write 1a", "exit 3")
    assert shown(result)[:1] == ["stdout: alast words"]
    assert (result.outcome, result.exit_code, result.state_lost) == (Outcome.ERROR, 3, True)
    assert "fresh state" in result.notes[0]
    assert await value(session, "get x") == "nothing"
    assert session.kernel is kernel
    assert session.generation == 1


async def test_a_fresh_host_has_the_environment_and_directory_of_the_session(
    engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    session = await engine.create_session(
        language="mirror", env={"COLOUR": "red"}, workdir=str(folder)
    )
    for _ in range(2):
        assert await value(session, "env COLOUR") == "red"
        assert await value(session, "cwd") == str(folder)
        await run(session, "exit 1")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_host_that_is_killed_takes_its_kernel_along(
    session: Session, number: signal.Signals
) -> None:
    kernel = session.kernel
    result = await run(session, "print a", f"kill {number}")
    assert "stdout: a\n" in shown(result)
    assert any(text.startswith("stderr: last words\n") for text in shown(result))
    assert f"was killed by {number.name}" in result.message
    assert (result.outcome, result.exit_code) == (Outcome.KERNEL_DIED, 128 + number)
    assert result.state_lost
    assert await value(session, "get x") == "nothing"
    assert session.kernel is not kernel


async def test_a_host_that_is_killed_between_two_runs_is_told(session: Session) -> None:
    kernel = session.kernel
    assert kernel is not None
    await run(session, "die-later 0.05")
    await asyncio.wait_for(asyncio.shield(kernel.exited), PATIENCE)
    result = await run(session, "get x")
    assert "SIGTERM" in result.notes[0]


async def test_a_host_that_breaks_its_protocol_is_replaced(session: Session) -> None:
    result = await run(session, "break")
    assert (result.outcome, result.state_lost) == (Outcome.ERROR, True)
    assert "broke its protocol" in result.notes[0]
    assert await value(session, "get x") == "nothing"


async def test_an_interrupt_keeps_the_state(session: Session) -> None:
    await run(session, "set x=5")
    execution = session.submit(request_of("print begun\nsleep 60"))
    await until(lambda: any(output.get("text") for output in execution_outputs(session)))
    assert session.interrupt()
    result = await execution.finished
    assert (result.outcome, result.exit_code) == (Outcome.INTERRUPTED, 130)
    assert not result.state_lost
    assert result.seconds < 10
    assert await value(session, "get x") == "5"


def execution_outputs(session: Session) -> list[dict[str, object]]:
    """What the current run has shown."""
    current = session._current
    if current is None or current.collector is None:
        return []
    return list(current.collector.outputs)


async def test_interrupts_at_random_lose_nothing(session: Session) -> None:
    await run(session, "set x=6")
    for number in range(60):
        execution = session.submit(request_of("sleep 0.004\nvalue done"))
        await asyncio.sleep(number % 10 / 1000)
        session.interrupt()
        result = await execution.finished
        assert not result.state_lost
    assert await value(session, "get x") == "6"


async def test_a_host_that_ignores_the_interrupt_is_killed(fresh_engine: Engine) -> None:
    async with session_on(fresh_engine) as session:
        result = await run(session, "ignore", *(["sleep 30"] * 4), timeout=0.2)
        assert (result.outcome, result.exit_code, result.state_lost) == (Outcome.TIMEOUT, 124, True)
        assert await value(session, "get x") == "nothing"


async def test_environment_and_directory_of_a_run_are_data(
    session: Session, tmp_path: Path
) -> None:
    awkward = "a\"b'c$(d)\n;é"
    assert await value(session, "env A", env={"A": awkward}) == awkward
    assert await value(session, "env A") == "nothing"
    assert await value(session, "cwd", cwd=tmp_path) == str(tmp_path)


async def test_a_directory_that_is_gone_is_refused(fresh_engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    creation = fresh_engine.create_session(language="mirror", workdir=str(folder))
    made = asyncio.ensure_future(creation)
    await asyncio.sleep(0)
    # Seen by the service, and gone before the kernel enters it.
    while not made.done() and not fresh_engine.pool_facts:
        await asyncio.sleep(0)
    folder.rmdir()
    with pytest.raises(DirectoryNotFound):
        await made


async def test_a_prompt_is_answered(session: Session) -> None:
    feed = Feed(1 << 20)
    execution = session.submit(request_of("ask name\nask secret", allow_stdin=True))
    execution.follow(feed)
    prompts = []
    while events := await feed.next():
        for event in events:
            if isinstance(event, Prompt):
                prompts.append((event.prompt, event.password))
                session.answer_input(f"answer {len(prompts)}")
    result = await execution.finished
    assert prompts == [("name", False), ("secret", True)]
    assert shown(result) == ["stdout: 'answer 1'\n'answer 2'\n"] or shown(result) == [
        "stdout: 'answer 1'\n",
        "stdout: 'answer 2'\n",
    ]


async def test_a_prompt_that_nobody_can_answer_is_at_its_end(session: Session) -> None:
    assert shown(await run(session, "ask name")) == ["stdout: None\n"]


async def test_a_prompt_can_be_interrupted(session: Session) -> None:
    execution = session.submit(request_of("ask name", allow_stdin=True))
    await until(lambda: execution.run is not None and execution.run.awaits_input)
    session.interrupt()
    result = await execution.finished
    assert (result.outcome, result.state_lost) == (Outcome.INTERRUPTED, False)
    assert await value(session, "value on") == "on"


async def test_what_comes_after_a_run_is_in_the_next_answer(
    session: Session, tmp_path: Path
) -> None:
    kernel = session.kernel
    assert kernel is not None
    take = kernel.on_late
    assert take is not None
    came: list[str] = []

    def note(message: Message) -> None:
        take(message)
        came.append(message.type)

    kernel.on_late = note
    await run(session, f"later-than {tmp_path / 'go'}")
    (tmp_path / "go").touch()
    await until(lambda: "stream" in came)
    result = await run(session, "value x")
    assert [output["text"] for output in result.late_outputs] == ["late\n"]


async def test_questions_are_answered(session: Session) -> None:
    await run(session, "set x=1")
    asked = await session.ask("complete_request", {"code": "ab", "cursor_pos": 2}, PATIENCE)
    assert asked == {
        "status": "ok",
        "matches": ["ab!"],
        "cursor_start": 0,
        "cursor_end": 2,
        "metadata": {},
    }
    content = {"code": "ab", "cursor_pos": 1, "detail_level": 0}
    asked = await session.ask("inspect_request", content, PATIENCE)
    assert (asked["found"], asked["data"]) == (True, {"text/plain": "ab"})
    asked = await session.ask("is_complete_request", {"code": "ab\\"}, PATIENCE)
    assert asked["status"] == "incomplete"
    asked = await session.ask("kernelagent_request", {"op": "variables"}, PATIENCE)
    assert [variable["name"] for variable in asked["variables"]] == ["x"]
    asked = await session.ask("kernelagent_request", {"op": "dance"}, PATIENCE)
    assert asked["status"] == "error"
    asked = await session.ask("kernel_info_request", {}, PATIENCE)
    assert asked["language_info"]["name"] == "mirror"
    asked = await session.ask("history_request", {"hist_access_type": "tail", "n": 5}, PATIENCE)
    assert asked["history"] == [[0, 1, "set x=1"]]
    # None of it is a run.
    assert (await run(session, "print a")).execution_count == 2


async def test_a_host_kernel_cannot_be_branched(engine: Engine, session: Session) -> None:
    with pytest.raises(BranchRefused, match="only Python kernels can be copied"):
        await engine.branch_session(session, wait=5)


async def test_nothing_is_left_of_a_kernel_and_its_host(engine: Engine, session: Session) -> None:
    assert session.kernel is not None
    await run(session, "later 60")
    family = psutil.Process(session.kernel.pid).children(recursive=True)
    assert len(family) == 2
    await engine.close_session(session.id)
    assert not [process for process in family if lives(process)]


def lives(process: psutil.Process) -> bool:
    """Whether it is more than an entry that nobody has reaped yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_kernel_that_is_killed_leaves_no_host(session: Session) -> None:
    assert session.kernel is not None
    family = psutil.Process(session.kernel.pid).children(recursive=True)
    os.kill(session.kernel.pid, signal.SIGKILL)
    await session.kernel.exited
    await until(lambda: not any(map(lives, family)))


async def test_a_pool_of_any_language_by_any_name(settings: Settings, tmp_path: Path) -> None:
    language = replace(mirror(tmp_path), aliases=("glass",))
    changed = settings.model_copy(update={"pools": {"glass": 2}})
    async with open_engine(changed, Languages([language])) as engine:
        await until(lambda: engine.pool_facts["mirror"]["idle"] == 2)
        session = await engine.create_session(language="glass")
        assert await value(session, "value 1") == "1"
    with pytest.raises(ConfigurationError, match="KERNELAGENT_POOLS: unknown language 'lens'"):
        async with open_engine(
            settings.model_copy(update={"pools": {"lens": 1}}), Languages([language])
        ):
            pass


async def test_a_host_that_does_not_start_is_told(settings: Settings, tmp_path: Path) -> None:
    language = mirror(tmp_path)
    (tmp_path / "mirror" / "host.py").write_text("raise SystemExit('no such luck')")
    changes = {"pool_idle": 0}
    async with open_engine(settings.model_copy(update=changes), Languages([language])) as engine:
        with pytest.raises(KernelStartFailed) as failure:
            await engine.create_session(language="mirror")
        assert "has ended" in json.dumps(failure.value.details)
