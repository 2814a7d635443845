"""Runs on faulty kernels: each fault ends in a known way, and the next run works."""

from __future__ import annotations

import asyncio

import pytest

from kernelagent.jupyter.events import Prompt
from kernelagent.jupyter.outputs import Budget
from kernelagent.outcome import Outcome
from kernelagent.sessions.events import Feed
from kernelagent.sessions.run import Run, RunLimits
from tests.engines import EngineFactory, first_of, run, shown, submit, text_of
from tests.waiting import PATIENCE, until


async def test_outputs_after_the_reply_belong_to_the_run(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "print before\nreply_first after")
    assert text_of(result) == "before\nafter\n"
    assert result.outcome is Outcome.OK


async def test_idle_before_the_reply_still_gives_its_count(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "print x\nidle_first")
    assert (result.outcome, result.execution_count) == (Outcome.OK, 1)


async def test_a_lost_reply_ends_the_run_all_the_same(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "print x\nno_reply")
    assert (result.outcome, shown(result)) == (Outcome.OK, ["x\n"])
    assert (await run(session, "print y")).execution_count == 2


async def test_a_lost_reply_after_an_error_is_an_error(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "no_reply\nerror ValueError wrong")
    assert result.outcome is Outcome.ERROR
    assert result.error is not None
    assert result.error["ename"] == "ValueError"


async def test_a_lost_idle_ends_the_run_after_a_grace(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    assert shown(await run(session, "print x\nno_idle")) == ["x\n"]
    assert shown(await run(session, "print y")) == ["y\n"]


async def test_a_kernel_that_never_ends_a_run_is_killed_at_the_limit(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "print x\nnever", timeout=1)
    assert (result.outcome, result.exit_code) == (Outcome.TIMEOUT, 124)
    assert result.state_lost
    assert text_of(result) == "x\n"
    assert "killed" in result.message
    assert (await run(session, "print y")).execution_count == 1


async def test_an_interrupt_at_the_limit_keeps_the_state(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine(interrupt_grace=PATIENCE)).session("default")
    result = await run(session, "print x\nsleep 60", timeout=0.2)
    assert (result.outcome, result.state_lost) == (Outcome.TIMEOUT, False)
    assert "kept" in result.message
    assert (await run(session, "print y")).execution_count == 2


async def test_a_kernel_that_ignores_interrupts_is_killed(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "print x\nstubborn 60", timeout=0.2)
    assert (result.outcome, result.state_lost) == (Outcome.TIMEOUT, True)
    assert session.generation == 1
    assert (await run(session, "print y")).outcome is Outcome.OK
    assert session.generation == 2


async def test_interrupts_by_message_work_too(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine(interrupt_mode="message", interrupt_grace=PATIENCE)).session(
        "default"
    )
    result = await run(session, "sleep 60", timeout=0.2)
    assert (result.outcome, result.state_lost) == (Outcome.TIMEOUT, False)


@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [("print x\nexit 3", 3, "exit code 3"), ("print x\nkill 9", 137, "SIGKILL")],
)
async def test_a_death_in_mid_run_is_told_with_its_cause(
    faulty_engine: EngineFactory, code: str, exit_code: int, cause: str
) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, code)
    assert (result.outcome, result.exit_code) == (Outcome.KERNEL_DIED, exit_code)
    assert cause in result.message
    assert result.state_lost
    assert text_of(result) == "x\n"
    assert text_of(result, "stderr").startswith("the kernel died")
    assert (await run(session, "print y")).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("value", "exit_code"),
    [
        ("", 0),
        ("None", 0),
        ("0", 0),
        ("3", 3),
        ("-1", 255),
        ("256", 0),
        ("no", 1),
        ("²", 1),
        ("٣", 1),
        ("--1", 1),
        ("9" * 5000, 1),
    ],
)
async def test_what_code_gives_to_exit_becomes_its_exit_code(
    faulty_engine: EngineFactory, value: str, exit_code: int
) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, f"error SystemExit {value}")
    assert result.exit_code == exit_code
    assert result.success == (exit_code == 0)


async def test_an_exit_code_of_zero_in_mid_run_is_no_success(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "exit 0")
    assert (result.success, result.outcome, result.exit_code) == (False, Outcome.KERNEL_DIED, 1)


async def test_a_stray_idle_does_not_end_the_run(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    assert text_of(await run(session, "stray_idle\nsleep 0.05\nprint x")) == "x\n"


async def test_output_with_a_foreign_parent_stays_out_of_the_run(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "foreign not mine\nprint mine")
    assert text_of(result) == "mine\n"
    assert [output["text"] for output in result.late_outputs] == ["not mine\n"]


async def test_late_output_comes_with_the_next_answer(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    first = await run(session, "late from the first")
    assert first.late_outputs == []
    second = await run(session, "sleep 0.3\nprint second")
    assert text_of(second) == "second\n"
    assert [output["text"] for output in second.late_outputs] == ["from the first\n"]
    assert (await run(session, "print third")).late_outputs == []


async def test_damaged_messages_are_ignored_and_counted(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "bad_json\nbad_sig_output\nprint x")
    assert text_of(result) == "x\n"
    assert session.kernel is not None
    assert session.kernel.connection.bad_messages == 2


async def test_bytes_and_numbers_that_json_lacks_survive(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, "binary 61ff62\nnan")
    assert text_of(result) == "a\ufffdb"
    assert result.outputs[-1]["output_type"] == "display_data"


async def test_messages_of_widgets_disturb_nothing(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    assert shown(await run(session, "comm\nprint x")) == ["x\n"]


@pytest.mark.parametrize("word", ["abort", "abort_short"])
async def test_a_run_that_the_kernel_aborts_after_it_began_ends(
    faulty_engine: EngineFactory, word: str
) -> None:
    session = (await faulty_engine()).session("default")
    result = await run(session, word)
    assert (result.outcome, result.success) == (Outcome.CANCELLED, False)
    assert (await run(session, "print x")).outcome is Outcome.OK


async def test_a_flood_arrives_whole_and_in_order(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine(output_bytes=64 << 20)).session("default")
    code = "flood 20000 100\nprint end"
    result = await run(session, code, budget=Budget(64 << 20, 100))
    assert len(text_of(result)) == 20000 * 100 + 4
    assert not result.truncation.truncated


async def test_the_loop_stays_free_during_a_flood(faulty_engine: EngineFactory) -> None:
    session = (await faulty_engine()).session("default")
    execution = submit(session, "flood 30000 2000")
    ticks = 0
    while not execution.finished.done():
        await asyncio.sleep(0)
        ticks += 1
    assert ticks > 50
    assert execution.finished.result().truncation.total_bytes == 30000 * 2000


async def test_a_run_that_cannot_be_sent_leaves_nothing_behind(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine()).session("default")
    await run(session, "print x")
    kernel = session.kernel
    assert kernel is not None
    kernel.connection.close()
    follower = Run(
        kernel,
        RunLimits(timeout=30, grace=1),
        lambda _: None,
    )
    before = len(asyncio.all_tasks())
    with pytest.raises(KeyError):
        await follower.go({"code": "print y"}, {})
    await asyncio.sleep(0.06)  # longer than the pause before memory is watched
    assert len(asyncio.all_tasks()) == before


async def test_a_prompt_reaches_the_client_and_its_answer_the_code(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine()).session("default")
    feed = Feed(1 << 20)
    execution = submit(session, "input name?", allow_stdin=True, feed=feed)
    assert await first_of(feed, Prompt) == Prompt("name?", False)
    session.answer_input("Ada", execution_id=execution.id)
    assert text_of(await execution.finished) == "Ada\n"


async def test_a_kernel_without_welcome_is_proven_by_its_status(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine(no_welcome=True)).session("default")
    assert text_of(await run(session, "print x")) == "x\n"


async def test_the_side_channel_carries_environment_and_directory_as_data(
    faulty_engine: EngineFactory,
) -> None:
    engine = await faulty_engine()
    session = engine.session("default")
    value = "'\"$\n{}"
    result = await run(session, "echo_meta", env={"A": value}, cwd=engine.sandbox.workspace)
    assert '"cwd"' in text_of(result)
    assert str(engine.sandbox.workspace) in text_of(result)


async def test_an_interrupt_before_the_kernel_began_still_lands(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine(interrupt_grace=PATIENCE)).session("default")
    await run(session, "print warm")
    execution = submit(session, "sleep 60")
    await until(lambda: execution.run is not None)
    execution.stop(Outcome.INTERRUPTED, "asked to")
    result = await execution.finished
    assert (result.outcome, result.state_lost) == (Outcome.INTERRUPTED, False)
