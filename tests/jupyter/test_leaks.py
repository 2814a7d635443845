"""Nothing is left behind: processes, descriptors, threads, files."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

from kernelagent.sessions.engine import open_engine
from kernelagent.settings import Settings
from tests.engines import EngineFactory, run, submit
from tests.jupyter.leaks import descriptors, family, warm_threads
from tests.waiting import until


async def test_a_hundred_sessions_leave_nothing(
    faulty_engine: EngineFactory, runtime_dir: Path
) -> None:
    engine = await faulty_engine()
    await warm_threads()
    session = await engine.create_session()
    await run(session, "print x")
    await engine.close_session(session.id)
    before = (descriptors(), threading.active_count(), len(family(engine.sandbox.workspace)))
    files = sorted(runtime_dir.rglob("*"))
    for _ in range(10):
        sessions = await asyncio.gather(*(engine.create_session() for _ in range(10)))
        await asyncio.gather(*(run(session, "print x\nsetsid") for session in sessions))
        await asyncio.gather(*(engine.close_session(session.id) for session in sessions))
    after = (descriptors(), threading.active_count(), len(family(engine.sandbox.workspace)))
    assert after == before
    assert sorted(runtime_dir.rglob("*")) == files


async def test_what_has_ended_is_freed_without_the_collector(faulty_engine: EngineFactory) -> None:
    """It comes rarely: until then, sessions that have ended would keep what their runs showed."""
    engine = await faulty_engine()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        session = await engine.create_session()
        # Long enough for its memory to be watched.
        await run(session, "print x\nsleep 0.2")
        await engine.close_session(session.id)
        del session
        gc.collect()
        left = {
            getattr(one, "__qualname__", type(one).__qualname__)
            for one in gc.garbage
            if str(getattr(one, "__module__", "")).startswith(("kernelagent", "json"))
        }
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left


async def test_an_idle_session_does_not_keep_what_its_last_run_showed(
    faulty_engine: EngineFactory,
) -> None:
    session = await (await faulty_engine()).create_session()
    execution = submit(session, "print x")
    await execution.finished
    kept = weakref.ref(execution)
    del execution
    await until(lambda: kept() is None)


async def test_an_engine_leaves_nothing(settings: Settings, runtime_dir: Path) -> None:
    await warm_threads()
    before = (descriptors(), threading.active_count(), family(settings.workspace))
    settings = settings.model_copy(update={"preload": ()})
    for _ in range(2):
        async with open_engine(settings) as engine:
            await run(engine.session("default"), "print('x' * 100_000)")
    after = (descriptors(), threading.active_count(), family(settings.workspace))
    assert after == before
    assert not list(runtime_dir.iterdir())


async def test_an_engine_that_fails_to_open_leaves_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    before = descriptors()
    for _ in range(3):
        try:
            async with open_engine(settings.model_copy(update={"workspace": blocked / "x"})):
                pass
        except OSError:
            continue
        raise AssertionError("a workspace below a file was accepted")
    assert descriptors() == before
