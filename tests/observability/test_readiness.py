"""/health?ready=1: apart from liveness, true only when the default pool is warm."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import kernelagent
from kernelagent.app import create_app
from kernelagent.auth.tokens import Authenticator
from kernelagent.jupyter.languages import Languages
from kernelagent.sandbox import Sandbox
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.settings import Settings, load_settings
from tests.waiting import until


def settings_with(settings: Settings, **changes: Any) -> Settings:
    return load_settings(**{**settings.model_dump(exclude_defaults=True), "preload": (), **changes})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Engine]]:
    """The application with its services open, and a client of it."""
    app: FastAPI = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://agent") as client,
    ):
        yield client, app.state.agent.engine


async def probe(client: httpx.AsyncClient) -> int:
    return (await client.get("/health", params={"ready": 1})).status_code


async def test_not_ready_until_the_pool_is_warm(settings: Settings) -> None:
    async with running(settings_with(settings)) as (client, engine):
        # The pool has only just been asked for: nothing was awaited that could have filled it.
        assert engine.pool_facts["python"]["idle"] == 0
        refused = await client.get("/health", params={"ready": 1})
        assert refused.status_code == 503
        body = refused.json()
        assert (body["code"], body["error"]) == ("NOT_READY", body["message"])
        assert body["details"]["pools"]["python"]["wanted"] == 1
        # It lives all the same.
        alive = await client.get("/health")
        assert (alive.status_code, alive.json()["status"]) == (200, "healthy")
        assert alive.json()["ready"] is False

        async def is_ready() -> bool:
            return await probe(client) == 200

        await until(is_ready)
        assert engine.pool_facts["python"]["idle"] == 1
        assert (await client.get("/health")).json()["ready"] is True


async def test_a_lease_does_not_make_it_unready_and_a_failing_refill_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings_with(settings, fork_server=False)) as (client, engine):

        async def is_ready() -> bool:
            return await probe(client) == 200

        await until(is_ready)
        spec = engine.languages.find("python").kernelspec
        monkeypatch.setattr(spec, "argv", ["/no/such/program"])
        await engine.create_session()
        # Just emptied: the next one is on its way, as far as is known.
        assert engine.pool_facts["python"]["idle"] == 0
        assert await is_ready()

        async def is_unready() -> bool:
            return not await is_ready()

        await until(is_unready)
        assert "/no/such/program" in engine.pool_facts["python"]["error"]
        token, _ = Authenticator.from_settings(settings).issue()
        headers = {"Authorization": f"Bearer {token}"}
        text = (await client.get("/metrics/prometheus", headers=headers)).text
        failed = 'kernel_starts_failed_total{code="KERNEL_START_FAILED",language="python"}'
        assert f"kernelagent_{failed}" in text


async def test_without_a_pool_it_is_ready_when_it_is_up(settings: Settings) -> None:
    wanted = settings_with(settings, pool_idle=0)
    languages = Languages.load()
    assert not Engine(Sandbox(wanted, languages.needs), languages).ready
    async with running(wanted) as (client, opened):
        assert opened.pool_facts["python"]["wanted"] == 0
        assert await probe(client) == 200


async def test_a_pool_of_an_alias_counts(settings: Settings) -> None:
    wanted = settings_with(settings, pool_idle=0, pools={"python3": 1})
    async with running(wanted) as (client, _):
        assert await probe(client) == 503


async def test_a_service_that_closes_is_not_ready(settings: Settings) -> None:
    async with open_engine(settings_with(settings, pool_idle=0)) as engine:
        assert engine.ready
    assert not engine.ready


async def test_another_languages_pool_is_not_waited_for(settings: Settings) -> None:
    wanted = settings_with(settings, pool_idle=0, pools={"bash": 1})
    async with running(wanted) as (client, engine):
        assert engine.pool_facts["bash"]["idle"] == 0
        assert await probe(client) == 200


async def test_a_loop_that_is_held_up_is_seen(settings: Settings) -> None:
    app = create_app(settings_with(settings, pool_idle=0))
    async with app.router.lifespan_context(app):
        lag = app.state.agent.observability.measurements.loop_lag

        async def is_measured() -> bool:
            return bool(lag.count)

        await until(is_measured)
        # Longer than the pause between two looks: one of them is late.
        time.sleep(0.6)  # noqa: ASYNC251 - what must be seen

        async def is_seen() -> bool:
            return bool(lag.total > 0.3)

        await until(is_seen)


def test_only_the_probe_answers_so() -> None:
    package = Path(kernelagent.__file__).parent
    raising = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "NotReady(" in path.read_text() and path.name != "errors.py"
    }
    assert raising == {"observability/routes.py"}
