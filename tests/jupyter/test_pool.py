"""Pools: leases, refills, failures."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from kernelagent.errors import KernelStartFailed, ServiceClosing, SessionLimit
from kernelagent.sessions.engine import Engine
from tests.engines import EngineFactory, run
from tests.waiting import until


def _facts(engine: Engine) -> dict[str, object]:
    return engine.pool_facts["python"]


async def test_a_lease_takes_a_warm_kernel(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(pool_idle=2)
    await until(lambda: _facts(engine)["idle"] == 2)
    session = await engine.create_session()
    assert _facts(engine)["leased"] == 1
    assert _facts(engine)["idle"] == 1
    assert session.kernel is not None


async def test_the_pool_refills_after_the_first_run(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(pool_idle=1)
    await until(lambda: _facts(engine)["idle"] == 1)
    session = await engine.create_session()
    assert (_facts(engine)["idle"], _facts(engine)["starting"]) == (0, 0)
    await run(session, "print x")
    await until(lambda: _facts(engine)["idle"] == 1)


async def test_the_first_lease_gets_the_kernel_that_is_starting(
    faulty_engine: EngineFactory,
) -> None:
    engine = await faulty_engine(pool_idle=1)
    await engine.create_session()
    assert (_facts(engine)["leased"], _facts(engine)["idle"]) == (1, 0)


async def test_a_used_kernel_never_returns(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine()
    session = await engine.create_session()
    kernel = session.kernel
    assert kernel is not None
    await engine.close_session(session.id)
    assert not kernel.alive
    assert _facts(engine)["leased"] == 0


async def test_a_warm_kernel_that_dies_is_replaced(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(pool_idle=1)
    session = await engine.create_session()
    await run(session, "print x")
    await until(lambda: _facts(engine)["idle"] == 1)
    [warm] = engine.idle_kernels("python")
    os.kill(warm.pid, signal.SIGKILL)
    await asyncio.wait([warm.exited])
    await until(lambda: engine.idle_kernels("python") not in ([], [warm]))


async def test_a_dead_kernel_is_never_leased(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(pool_idle=1)
    await until(lambda: _facts(engine)["idle"] == 1)
    [warm] = engine.idle_kernels("python")
    os.kill(warm.pid, signal.SIGKILL)
    session = await engine.create_session()
    assert (await run(session, "print x")).success or (await run(session, "print x")).success


async def test_a_start_that_fails_is_told_to_who_waits_and_not_repeated_at_full_speed(
    faulty_engine: EngineFactory,
) -> None:
    engine = await faulty_engine(fault="die_at_start", pool_idle=1)
    with pytest.raises(KernelStartFailed):
        await engine.create_session()
    assert "exit code 7" in str(_facts(engine)["error"])
    assert _facts(engine)["starting"] == 0


async def test_the_number_of_kernels_is_bounded(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(max_kernels=1)
    await engine.create_session()
    with pytest.raises(SessionLimit):
        await engine.create_session()


async def test_many_leases_at_once_are_all_served(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(pool_idle=1)
    sessions = await asyncio.gather(*(engine.create_session() for _ in range(8)))
    assert len({session.kernel for session in sessions}) == 8


async def test_a_cancelled_lease_leaks_no_kernel(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine()
    creating = asyncio.create_task(engine.create_session())
    await until(lambda: _facts(engine)["starting"] == 1)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await until(lambda: _facts(engine)["starting"] == 0)
    session = await engine.create_session()
    await run(session, "print x")
    assert _facts(engine)["leased"] == 1


async def test_closing_while_kernels_start_leaves_none(faulty_engine: EngineFactory) -> None:
    engine = await faulty_engine(fault="slow_start 5", pool_idle=2)
    creating = asyncio.create_task(engine.create_session())
    await until(lambda: _facts(engine)["starting"] == 2)
    await engine.close()
    with pytest.raises(ServiceClosing):
        await creating
    assert _facts(engine)["leased"] == 0
