"""Where the key of tokens comes from, and which are refused at the start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from kernelagent.auth import secret
from kernelagent.auth.tokens import Authenticator
from kernelagent.errors import ConfigurationError
from kernelagent.settings import Settings, load_settings
from tests.auth.tokens import SECRET, claims, private_pem, public_pem, signed
from tests.waiting import PATIENCE


def unchecked(**changes: Any) -> Settings:
    return load_settings().model_copy(update=changes)


@pytest.mark.parametrize("pem", ["", "no key", public_pem(generate_private_key(SECP256R1()))])
def test_a_public_key_of_another_kind_is_refused_at_the_start(pem: str) -> None:
    with pytest.raises(ConfigurationError, match="Ed25519"):
        Authenticator.from_settings(unchecked(jwt_public_key=pem))


def test_a_short_secret_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="32 bytes"):
        Authenticator.from_settings(unchecked(jwt_secret=SecretStr("short")))


def test_a_public_key_as_shared_secret_is_refused_at_the_start() -> None:
    pem = public_pem(Ed25519PrivateKey.generate())
    with pytest.raises(ConfigurationError, match="no shared secret"):
        Authenticator.from_settings(load_settings(jwt_secret=pem))


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    first = Authenticator.from_settings(load_settings(state_dir=state))
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "jwt-secret").stat().st_mode & 0o777 == 0o600
    assert len((state / "jwt-secret").read_bytes()) > 32
    assert [file.name for file in state.iterdir()] == ["jwt-secret"]
    second = Authenticator.from_settings(load_settings(state_dir=state))
    assert second.verify(first.issue()[0]).subject == "cli"


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    state, go = tmp_path / "state", tmp_path / "go"
    program = """
import os, pathlib, sys, time
from kernelagent.auth.secret import load_or_make_secret
state, go = map(pathlib.Path, sys.argv[1:])
for _ in range(4):
    if os.fork() == 0:
        os.write(1, b"ready\\n")
        while not go.exists(): time.sleep(0.0005)
        os.write(1, load_or_make_secret(state) + b"\\n")
        os._exit(0)
for _ in range(4): os.wait()
"""
    command = [sys.executable, "-c", program, str(state), str(go)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline() == "ready\n"
        go.touch()
        answers = process.communicate(timeout=PATIENCE)[0].splitlines(keepends=True)
    assert answers == [(state / "jwt-secret").read_text()] * 4
    assert [file.name for file in state.iterdir()] == ["jwt-secret"]


def test_the_loser_of_a_race_takes_the_other_secret(tmp_path: Path) -> None:
    (tmp_path / "jwt-secret").write_text(SECRET)
    (tmp_path / "jwt-secret").chmod(0o600)
    secret._make_secret(tmp_path / "jwt-secret")
    assert secret.load_or_make_secret(tmp_path) == SECRET.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "jwt-secret").write_text(SECRET)
    (tmp_path / "jwt-secret").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


@pytest.mark.parametrize("content", [b"", b"short", b" " * 100, b"x" * 31])
def test_a_short_kept_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jwt-secret").write_bytes(content)
    (tmp_path / "jwt-secret").chmod(0o600)
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "known"
    target.write_text(SECRET)
    target.chmod(0o600)
    (tmp_path / "jwt-secret").symlink_to(target)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_something_else_in_the_place_of_the_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jwt-secret").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_a_state_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="KERNELAGENT_STATE_DIR"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path / "file" / "state"))


def test_keys_may_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(tmp_path / "secret"))
    assert Authenticator.from_settings(load_settings()).verify(signed()).subject == "someone"

    monkeypatch.delenv("KERNELAGENT_JWT_SECRET_FILE")
    key = Ed25519PrivateKey.generate()
    (tmp_path / "public.pem").write_text(public_pem(key))
    monkeypatch.setenv("KERNELAGENT_JWT_PUBLIC_KEY_FILE", str(tmp_path / "public.pem"))
    token = jwt.encode(claims(), private_pem(key), algorithm="EdDSA")
    assert Authenticator.from_settings(load_settings()).verify(token).subject == "someone"


def test_no_auth_verifies_nothing_and_makes_no_secret(tmp_path: Path) -> None:
    settings = load_settings(no_auth=True, state_dir=tmp_path / "state")
    authenticator = Authenticator.from_settings(settings)
    for token in (None, "", "nonsense", signed(exp=1)):
        assert authenticator.verify(token).scopes == {"*"}
    assert authenticator.is_open
    assert not (tmp_path / "state").exists()
    with pytest.raises(ConfigurationError, match="authentication is off"):
        authenticator.issue()


def test_an_authenticator_without_a_key_is_not_made() -> None:
    with pytest.raises(ConfigurationError):
        Authenticator(sandbox_id="local")
