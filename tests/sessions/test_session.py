"""Sessions on real Python kernels: queue, state, environment, restart, questions."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from kernelagent.errors import (
    DirectoryNotFound,
    InvalidRequest,
    LanguageNotAvailable,
    NoInputAwaited,
    QueueFull,
    QueueTimeout,
    SessionBusy,
    SessionClosed,
    SessionExists,
    SessionLimit,
    SessionNotFound,
)
from kernelagent.jupyter.events import Begun
from kernelagent.jupyter.languages import Language, Languages
from kernelagent.jupyter.outputs import Budget
from kernelagent.outcome import Outcome
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.sessions.events import Feed
from kernelagent.settings import Settings
from tests.engines import EngineFactory, first_of, run, submit, text_of
from tests.waiting import PATIENCE, until


async def test_state_is_kept_between_runs(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "x = 41")
    result = await run(session, "x + 1")
    assert result.outputs[0]["data"]["text/plain"] == "42"
    assert result.execution_count == 2


async def test_sessions_do_not_share_state(engine: Engine) -> None:
    await run(engine.session("default"), "x = 1")
    other = await engine.create_session(session_id="other")
    assert (await run(other, "x")).outcome is Outcome.ERROR


async def test_runs_queued_at_once_come_back_in_order(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "order = []")
    runs = [submit(session, f"order.append({n}); len(order)") for n in range(50)]
    results = await asyncio.gather(*(execution.finished for execution in runs))
    lengths = [result.outputs[0]["data"]["text/plain"] for result in results]
    assert lengths == [str(n + 1) for n in range(50)]
    counts = [result.execution_count for result in results]
    assert counts == list(range(2, 52))


async def test_a_full_queue_is_refused_with_position_and_limit(
    faulty_engine: EngineFactory,
) -> None:
    session = (await faulty_engine(queue_limit=2)).session("default")
    running = submit(session, "sleep 60")
    await until(lambda: running.run is not None)
    waiting = [submit(session, "print x") for _ in range(2)]
    with pytest.raises(QueueFull) as refused:
        submit(session, "print x")
    assert refused.value.details == {"position": 3, "limit": 2}
    session.interrupt()
    for execution in waiting:
        assert (await execution.finished).outcome is Outcome.OK


async def test_a_run_whose_turn_does_not_come_is_not_run(engine: Engine) -> None:
    session = engine.session("default")
    running = submit(session, "import time; time.sleep(60)")
    await until(lambda: running.run is not None)
    late = submit(session, "ran = True", queue_timeout=0.1)
    with pytest.raises(QueueTimeout):
        await late.finished
    session.interrupt()
    await running.finished
    assert (await run(session, "ran")).outcome is Outcome.ERROR


async def test_cancelling_a_queued_run_leaves_the_others_alone(engine: Engine) -> None:
    session = engine.session("default")
    first, second, third = (submit(session, f"{n}") for n in range(3))
    session.cancel(second, Outcome.CANCELLED, "the client left")
    assert (await second.finished).outcome is Outcome.CANCELLED
    assert "was not run" in (await second.finished).message
    assert (await first.finished).outcome is Outcome.OK
    assert (await third.finished).execution_count == 2


async def test_cancelling_a_running_run_frees_the_session(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "kept = 1")
    running = submit(session, "import time\nprint('on')\ntime.sleep(60)")
    waiting = submit(session, "kept")
    await until(lambda: running.run is not None)
    session.cancel(running, Outcome.CANCELLED, "the client left")
    assert (await running.finished).outcome is Outcome.CANCELLED
    assert (await waiting.finished).outcome is Outcome.OK


async def test_interrupting_an_await_keeps_the_state(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "import asyncio\nkept = 1")
    running = submit(session, "await asyncio.sleep(60)")
    await until(lambda: running.run is not None)
    session.interrupt()
    result = await running.finished
    assert (result.outcome, result.state_lost) == (Outcome.INTERRUPTED, False)
    assert (await run(session, "kept")).outcome is Outcome.OK


async def test_interrupts_near_the_end_of_runs_lose_no_session(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "kept = 1")
    for _ in range(20):
        feed = Feed(1 << 20)
        execution = submit(session, "pass", feed=feed)
        await first_of(feed, Begun)
        session.interrupt()
        result = await execution.finished
        assert result.outcome in (Outcome.OK, Outcome.INTERRUPTED)
        assert not result.state_lost
    assert (await run(session, "kept")).outcome is Outcome.OK


async def test_a_requests_environment_is_undone_exactly(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "import os\nos.environ['SET'] = 'before'")
    ugly = "quotes ' \" and\nnewlines and $HOME and \\ and é"
    result = await run(
        session,
        "print(repr(os.environ['SET']), repr(os.environ['NEW']))",
        env={"SET": ugly, "NEW": ""},
    )
    assert text_of(result) == f"{ugly!r} ''\n"
    after = await run(session, "print(os.environ['SET'], 'NEW' in os.environ)")
    assert text_of(after) == "before False\n"


async def test_a_requests_environment_is_undone_after_an_interrupt(engine: Engine) -> None:
    session = engine.session("default")
    running = submit(session, "import time; time.sleep(60)", env={"A": "1"})
    await until(lambda: running.run is not None)
    session.interrupt()
    await running.finished
    after = await run(session, "import os; print('A' in os.environ)")
    assert text_of(after) == "False\n"


async def test_a_requests_directory_is_undone(engine: Engine) -> None:
    session = engine.session("default")
    inside = engine.sandbox.workspace / "inside"
    inside.mkdir(exist_ok=True)
    assert text_of(await run(session, "import os; print(os.getcwd())", cwd=inside)) == f"{inside}\n"
    assert text_of(await run(session, "print(os.getcwd())")) == f"{engine.sandbox.workspace}\n"


async def test_cell_magics_see_environment_and_directory(engine: Engine) -> None:
    session = engine.session("default")
    inside = engine.sandbox.workspace / "inside"
    inside.mkdir(exist_ok=True)
    result = await run(session, "%%bash\necho $A; pwd", env={"A": "from the request"}, cwd=inside)
    assert text_of(result) == f"from the request\n{inside}\n"


async def test_a_sessions_own_environment_and_directory(engine: Engine) -> None:
    (engine.sandbox.workspace / "home").mkdir()
    session = await engine.create_session(workdir="home", env={"A": "session"})
    code = "import os; print(os.environ['A'], os.getcwd())"
    assert text_of(await run(session, code)) == f"session {engine.sandbox.workspace / 'home'}\n"
    assert text_of(await run(session, code, env={"A": "request"})).startswith("request ")
    assert text_of(await run(session, code)).startswith("session ")
    await session.restart()
    assert text_of(await run(session, code)).startswith("session ")


async def test_a_missing_directory_is_told_and_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(DirectoryNotFound):
        await engine.create_session(workdir="nowhere")
    assert list(engine.sessions) == []


async def test_a_directory_that_vanishes_before_the_run_is_told(engine: Engine) -> None:
    session = engine.session("default")
    with pytest.raises(DirectoryNotFound):
        await run(session, "1", cwd=engine.sandbox.workspace / "gone")
    assert (await run(session, "1")).outcome is Outcome.OK


async def test_a_restart_cancels_what_runs_and_waits(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "x = 1")
    running = submit(session, "print('on')\nimport time; time.sleep(60)")
    waiting = submit(session, "1")
    await until(lambda: running.run is not None)
    await session.restart()
    assert (await running.finished).outcome is Outcome.CANCELLED
    assert (await waiting.finished).outcome is Outcome.CANCELLED
    result = await run(session, "x")
    assert (result.outcome, result.execution_count) == (Outcome.ERROR, 1)
    assert result.notes == []


async def test_a_kernel_lost_between_runs_is_replaced_and_told(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "x = 1")
    kernel = session.kernel
    assert kernel is not None
    os.kill(kernel.pid, signal.SIGKILL)
    await asyncio.wait([kernel.exited])
    result = await run(session, "1")
    assert result.outcome is Outcome.OK
    assert "SIGKILL" in result.notes[0]
    # Once.
    assert (await run(engine.session("default"), "1")).notes == []


@pytest.mark.parametrize("leave", ["exit", "quit"])
async def test_exit_ends_the_code_and_not_the_kernel(engine: Engine, leave: str) -> None:
    session = engine.session("default")
    result = await run(session, f"x = 1\n{leave}(2)\nprint('goes on')")
    assert (result.outcome, result.exit_code, text_of(result)) == (Outcome.ERROR, 2, "")
    assert (await run(session, f"{leave}()")).success
    assert (await run(session, "x")).outcome is Outcome.OK


@pytest.mark.parametrize(("argument", "exit_code", "outcome"), [("3", 3, "error"), ("0", 0, "ok")])
async def test_sys_exit_gives_the_exit_code(
    engine: Engine, argument: str, exit_code: int, outcome: str
) -> None:
    result = await run(engine.session("default"), f"import sys; sys.exit({argument})")
    assert (result.outcome, result.exit_code) == (outcome, exit_code)


async def test_input_without_a_stream_fails_at_once(engine: Engine) -> None:
    result = await run(engine.session("default"), "input('name?')")
    assert result.error is not None
    assert "stream" in result.error["evalue"]


async def test_an_answer_that_nobody_asked_for_is_refused(engine: Engine) -> None:
    session = engine.session("default")
    with pytest.raises(NoInputAwaited):
        session.answer_input("x")


async def test_questions_touch_neither_count_nor_history(engine: Engine) -> None:
    session = engine.session("default")
    await run(session, "value = 1")
    reply = await session.ask("complete_request", {"code": "val", "cursor_pos": 3}, PATIENCE)
    assert "value" in reply["matches"]
    listing = await session.ask("kernelagent_request", {"op": "variables"}, PATIENCE)
    assert [variable["name"] for variable in listing["variables"]] == ["value"]
    result = await run(session, "len([cell for cell in In if cell])")
    assert result.execution_count == 2
    assert result.outputs[0]["data"]["text/plain"] == "2"


async def test_a_question_during_a_run_is_answered_with_busy(engine: Engine) -> None:
    session = engine.session("default")
    running = submit(session, "import time; time.sleep(60)")
    await until(lambda: running.run is not None)
    with pytest.raises(SessionBusy):
        await session.ask("complete_request", {"code": "a", "cursor_pos": 1}, 0.1)
    session.interrupt()
    await running.finished


async def test_closing_a_session_ends_what_runs_and_waits(engine: Engine) -> None:
    session = await engine.create_session()
    running = submit(session, "print('on')\nimport time; time.sleep(60)")
    waiting = submit(session, "1")
    await until(lambda: running.run is not None)
    await engine.close_session(session.id)
    assert (await running.finished).outcome is Outcome.CANCELLED
    assert (await waiting.finished).outcome is Outcome.CANCELLED
    with pytest.raises(SessionClosed):
        submit(session, "1")
    with pytest.raises(SessionNotFound):
        engine.find(session.id)


async def test_idle_sessions_expire_and_default_ones_stay(engine: Engine) -> None:
    await run(engine.session("default"), "1")
    session = await engine.create_session(idle_timeout=0.05)
    await until(lambda: session.idle_seconds > 0.05)
    await engine.expire_sessions()
    assert [left.id for left in engine.sessions] == ["default-python"]


async def test_a_busy_session_does_not_expire(engine: Engine) -> None:
    session = await engine.create_session(idle_timeout=0.01)
    running = submit(session, "import time; time.sleep(0.3)")
    await until(lambda: running.run is not None)
    await engine.expire_sessions()
    assert (await running.finished).outcome is Outcome.OK


async def test_ids_and_limits_of_sessions(settings: Settings) -> None:
    languages = Languages([*Languages.load(), Language("cobol", (), None, "it is too old")])
    changes = {"max_sessions": 1, "pool_idle": 0, "fork_server": False}
    async with open_engine(settings.model_copy(update=changes), languages) as engine:
        with pytest.raises(InvalidRequest):
            await engine.create_session(session_id="no/slash")
        with pytest.raises(LanguageNotAvailable):
            await engine.create_session(language="cobol")
        await engine.create_session(session_id="mine")
        with pytest.raises(SessionExists):
            await engine.create_session(session_id="mine")
        with pytest.raises(SessionLimit):
            await engine.create_session()


async def test_an_isolated_session_ends_with_its_run(engine: Engine) -> None:
    async with engine.isolated_session(None) as session:
        await run(session, "x = 1")
        assert session.kernel is not None
        kernel = session.kernel
    assert not kernel.alive
    assert list(engine.sessions) == []


async def test_output_over_the_budget_is_in_a_file(engine: Engine) -> None:
    result = await run(engine.session("default"), "print('x' * 100_000)", budget=Budget(10_000, 10))
    assert result.truncation.truncated
    assert result.truncation.stdout_bytes == 100_001
    [file] = result.truncation.files
    assert file["bytes"] == 90_001
    rest = (
        engine.sandbox.workspace / ".kernelagent" / "outputs" / result.execution_id / "stdout.txt"
    )
    assert rest.read_text() == "x" * 90_000 + "\n"


async def test_text_of_a_process_that_the_code_starts_is_captured(engine: Engine) -> None:
    code = "import os, subprocess\nos.write(1, b'fd\\n')\n_ = subprocess.run(['echo', 'child'])"
    assert text_of(await run(engine.session("default"), code)) == "fd\nchild\n"


async def test_the_kernels_publisher_drops_nothing_when_it_is_not_read(engine: Engine) -> None:
    code = "get_ipython().kernel.iopub_thread.socket.sndhwm"
    result = await run(engine.session("default"), code)
    assert result.outputs[0]["data"]["text/plain"] == "0"


async def test_thousands_of_displays_all_arrive(engine: Engine) -> None:
    code = "from IPython.display import display\nfor n in range(5000): display(n)"
    result = await run(engine.session("default"), code, budget=Budget(8 << 20, 10_000))
    shown = [output["data"]["text/plain"] for output in result.outputs]
    assert shown == [str(n) for n in range(5000)]


async def test_output_of_a_thread_reaches_the_next_answer(engine: Engine) -> None:
    session = engine.session("default")
    code = (
        "import threading, time\n"
        "thread = threading.Thread(target=lambda: (time.sleep(0.2), print('late')))\n"
        "thread.start()"
    )
    await run(session, code)
    result = await run(session, "thread.join(); print('now')")
    everything = text_of(result) + "".join(output["text"] for output in result.late_outputs)
    assert sorted(everything.split()) == ["late", "now"]
