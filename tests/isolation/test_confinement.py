"""What a confinement needs, hides and tells, and what it refuses."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from kernelagent.errors import ConfigurationError
from kernelagent.isolation import spawning
from kernelagent.isolation.confinement import UNUSED_ID, Confinement, _make_home
from kernelagent.isolation.spawner import ACTIVE, MISSING
from kernelagent.processes.environment import Environment
from kernelagent.processes.process import PLAIN
from kernelagent.settings import Settings
from tests.isolation.confinements import NEEDS, children, output_of


async def test_without_a_spawner_processes_start_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spawning, "_PROGRAM", "raise SystemExit(1)")
    settings.workspace.mkdir()
    confinement = Confinement(settings)
    await confinement.open(NEEDS, Environment())
    assert await output_of(confinement.starter, "echo", "x") == "x\n"
    states = {layer.name: layer.state for layer in confinement.layers}
    assert states.pop("memory") == ACTIVE
    assert set(states.values()) == {MISSING}
    assert "a layer of isolation is missing: landlock" in caplog.text
    await confinement.close()
    assert children() == []


async def test_what_is_required_and_cannot_be_had_keeps_the_service_from_starting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawning, "_PROGRAM", "raise SystemExit(1)")
    settings.workspace.mkdir()
    confinement = Confinement(settings.model_copy(update={"isolation": "require"}))
    with pytest.raises(ConfigurationError, match=r"ISOLATION=require, but .*seccomp: "):
        await confinement.open(NEEDS, Environment())
    await confinement.close()
    assert children() == []


@pytest.mark.skipif(os.getuid() != 0, reason="others need no other user")
async def test_one_layer_that_is_missing_is_enough_for_that(settings: Settings) -> None:
    settings.workspace.mkdir()
    changes = {"isolation": "require", "sandbox_user": "root"}
    confinement = Confinement(settings.model_copy(update=changes))
    with pytest.raises(ConfigurationError, match="user: KERNELAGENT_SANDBOX_USER is root"):
        await confinement.open(NEEDS, Environment())
    await confinement.close()
    assert children() == []


async def test_a_spawner_that_hangs_at_its_start_is_not_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawning, "_PROGRAM", "import time; time.sleep(100)")
    monkeypatch.setattr(spawning, "_OPENING", 0.3)
    settings.workspace.mkdir()
    confinement = Confinement(settings)
    await confinement.open(NEEDS, Environment())
    assert confinement.starter is PLAIN
    assert children() == []


async def test_a_key_that_is_replaced_stays_hidden(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "keys" / "jwt"
    key.parent.mkdir()
    key.write_text("first")
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(key))
    settings.workspace.mkdir()
    confinement = Confinement(settings.model_copy(update={"sandbox_user": "root"}))
    await confinement.open(NEEDS, Environment())
    try:
        if "cover" not in {layer.name for layer in confinement.layers if layer.state == ACTIVE}:
            pytest.skip("nothing is covered here")
        read = ("sh", "-c", f"cat {key} 2>&1 || true")
        assert "first" not in await output_of(confinement, *read)
        (tmp_path / "new").write_text("second")
        (tmp_path / "new").rename(key)
        assert "second" not in await output_of(confinement, *read)
    finally:
        await confinement.close()


async def test_it_is_told_where_a_key_must_not_be_replaced(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.workspace.mkdir()
    key = settings.workspace / "jwt"
    key.write_text("first")
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(key))
    confinement = Confinement(settings.model_copy(update={"sandbox_user": "root"}))
    await confinement.open(NEEDS, Environment())
    try:
        printed = await output_of(confinement, "sh", "-c", f"cat {key} 2>&1 || true")
        assert "first" not in printed
        assert f"may read {key} once it is replaced" in caplog.text
        cover = next(layer for layer in confinement.layers if layer.name == "cover")
        assert cover.state != ACTIVE or str(key) in cover.detail
    finally:
        await confinement.close()


@pytest.mark.parametrize("name", ["workspace", "runtime_dir"])
async def test_what_is_used_must_not_be_where_the_secrets_are(
    settings: Settings, name: str
) -> None:
    changed = settings.model_copy(update={name: settings.state_dir / "x"})
    with pytest.raises(ConfigurationError, match="is in the state directory"):
        await Confinement(changed).open(NEEDS, Environment())


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_home_that_cannot_be_made_keeps_no_service_from_starting(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / ".kernelagent"
    if kind == "file":
        taken.write_text("mine")
    else:
        taken.symlink_to("/etc")
    assert _make_home(tmp_path, (UNUSED_ID, UNUSED_ID)) == str(tmp_path)
    assert f"{taken}/home cannot be made" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("wish", ["no-such-user", "0", "5:0", "a:b"])
async def test_a_user_that_cannot_be_is_refused(settings: Settings, wish: str) -> None:
    settings.workspace.mkdir()
    confinement = Confinement(settings.model_copy(update={"sandbox_user": wish}))
    with pytest.raises(ConfigurationError, match="KERNELAGENT_SANDBOX_USER"):
        await confinement.open(NEEDS, Environment())


async def test_missing_layers_are_logged_with_their_reasons(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings.workspace.mkdir()
    confinement = Confinement(settings.model_copy(update={"sandbox_user": "root"}))
    await confinement.open(NEEDS, Environment())
    await confinement.close()
    assert "layers of isolation in force: memory, privileges, " in caplog.text
    if os.getuid() == 0:
        assert "missing: user: KERNELAGENT_SANDBOX_USER is root" in caplog.text
