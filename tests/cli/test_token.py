"""Tokens that the command line prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kernelagent.auth.secret import SECRET_FILE
from kernelagent.auth.tokens import Authenticator
from kernelagent.settings import load_settings
from tests.command_line import fresh_kernelagent, kernelagent

if TYPE_CHECKING:
    from pathlib import Path


def test_prints_a_valid_token_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"

    done = kernelagent("token", "--state-dir", str(state), cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    token = done.stdout.removesuffix("\n")
    principal = Authenticator.from_settings(load_settings(state_dir=state)).verify(token)
    assert principal.subject == "cli"
    assert principal.allows("execute")
    assert (state / SECRET_FILE).stat().st_mode & 0o777 == 0o600


def test_options_shape_the_token(tmp_path: Path) -> None:
    options = ["--scope", "execute", "--scope", "files", "--subject", "ci", "--ttl", "60"]

    done = kernelagent(
        "token",
        *options,
        "--sandbox-id",
        "box",
        cwd=tmp_path,
        KERNELAGENT_STATE_DIR=str(tmp_path / "state"),
    )

    settings = load_settings(state_dir=tmp_path / "state", sandbox_id="box")
    principal = Authenticator.from_settings(settings).verify(done.stdout.strip())
    assert principal.subject == "ci"
    assert principal.scopes == {"execute", "files"}
    assert principal.expires_at - time.time() < 62


def test_unknown_scope_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = kernelagent("token", "--scope", "no", "--state-dir", str(tmp_path / "s"), cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kernelagent: the scopes of a token are some of")
    assert done.stderr.count("\n") == 1


def test_version_and_help(tmp_path: Path) -> None:
    assert fresh_kernelagent("--version", cwd=tmp_path).stdout.startswith("kernelagent 0.")
    helped = kernelagent(cwd=tmp_path)
    for command in ("serve", "token", "run", "replay", "doctor", "kernelspec"):
        assert command in helped.stdout + helped.stderr
