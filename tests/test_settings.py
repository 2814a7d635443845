"""Settings: from variables, files and arguments; what is refused, with a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import ConfigurationError
from kernelagent.settings import ENV_PREFIX, Settings, load_settings

SECRET = "s3cret-" * 5


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the machine may have set."""
    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def test_the_defaults_are_safe() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.no_auth) == ("127.0.0.1", 7777, False)
    assert settings.workspace == Path("/workspace")
    assert settings.kernel_env == ()


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert "|" not in field.description, f"{name}: would break its table"


def test_variables_set_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_PORT", "8080")
    monkeypatch.setenv("KERNELAGENT_NO_AUTH", "true")
    monkeypatch.setenv("KERNELAGENT_KEEPALIVE", "2.5")
    monkeypatch.setenv("KERNELAGENT_WORKSPACE", "/data")
    settings = load_settings()
    assert (settings.port, settings.no_auth, settings.keepalive) == (8080, True, 2.5)
    assert settings.workspace == Path("/data")


def test_arguments_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_PORT", "8080")
    assert load_settings(port=9090).port == 9090


def test_an_argument_of_none_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_PORT", "8080")
    assert load_settings(port=None, no_auth=None).port == 8080


def test_variables_of_others_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("KERNELAGENT_UNHEARD_OF", "1")
    assert load_settings().port == 7777


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc] # which is the point


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("A", ("A",)),
        ("A,B_C", ("A", "B_C")),
        (" A , ,B, ", ("A", "B")),
    ],
)
def test_names_of_variables_for_kernels_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KERNELAGENT_KERNEL_ENV", text)
    assert load_settings().kernel_env == names


def test_paths_are_absolute_and_a_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    settings = load_settings(workspace="here", runtime_dir="~/run")
    assert settings.workspace == tmp_path / "here"
    assert settings.runtime_dir == settings.runtime_parent == Path("/home/somebody/run")
    assert settings.state_dir == Path("/home/somebody/.local/state/kernelagent")


def test_sockets_are_in_the_temporary_directory_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert load_settings().runtime_parent == tmp_path


def test_a_secret_can_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(file))
    secret = load_settings().jwt_secret
    assert secret is not None
    assert secret.get_secret_value() == SECRET


def test_a_public_key_can_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key.pem"
    file.write_text("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n")
    monkeypatch.setenv("KERNELAGENT_JWT_PUBLIC_KEY_FILE", str(file))
    assert load_settings().jwt_public_key == file.read_text().strip()


def test_a_value_wins_over_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", "/missing")
    secret = load_settings(jwt_secret=SECRET).jwt_secret
    assert secret is not None
    assert secret.get_secret_value() == SECRET


def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, binary):
        monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(path))
        with pytest.raises(ConfigurationError, match="KERNELAGENT_JWT_SECRET_FILE"):
            load_settings()


def test_an_empty_file_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(tmp_path / "empty"))
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        load_settings()


def test_secrets_are_in_no_representation() -> None:
    settings = load_settings(jwt_secret=SECRET)
    for text in (repr(settings), str(settings), str(settings.model_dump())):
        assert "s3cret" not in text
    assert "s3cret" not in settings.model_dump_json()


def test_a_refused_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET", "too short")
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    assert "too short" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("port", "http"),
        ("no_auth", "perhaps"),
        ("sandbox_id", ""),
        ("sandbox_id", "x" * 129),
        ("log_format", "xml"),
        ("token_ttl", "0"),
        ("token_ttl", "inf"),
        ("max_body_bytes", "100"),
        ("max_timeout", "0"),
        ("max_timeout", "nan"),
        ("default_timeout", "-1"),
        ("default_timeout", "inf"),
        ("queue_limit", "0"),
        ("interrupt_grace", "0"),
        ("output_bytes", "0"),
        ("output_items", "0"),
        ("max_output_bytes", "1"),
        ("spill_bytes", "-1"),
        ("keepalive", "0"),
        ("pool_idle", "-1"),
        ("pool_idle", "65"),
        ("pools", "javascript"),
        ("pools", "javascript=x"),
        ("pools", "bash=65"),
        ("pools", "bash=-1"),
        ("max_kernels", "0"),
        ("max_sessions", "0"),
        ("session_idle_timeout", "-1"),
        ("kernel_start_timeout", "0"),
        ("kernel_memory", "1000"),
        ("kernel_memory", "lots"),
        ("workspace", "~nobody-has-this-name/x"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    variable = f"{ENV_PREFIX}{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"^{variable}: "):
        load_settings()


def test_pools_are_set_by_language(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().pool_size("python") == 1
    assert load_settings().pool_size("bash", "sh") == 0
    monkeypatch.setenv("KERNELAGENT_POOLS", " JS=2, bash=1,python=3,")
    settings = load_settings(pool_idle=5)
    assert settings.pool_size("javascript", "node", "js") == 2
    assert settings.pool_size("bash") == 1
    assert settings.pool_size("python") == 3
    assert settings.pool_size("go") == 0


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - only compared
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_only_loopback_addresses_may_be_served_without_tokens(host: str, expected: bool) -> None:
    assert load_settings(host=host).is_loopback is expected
    if expected:
        load_settings(host=host, no_auth=True)
    else:
        with pytest.raises(ConfigurationError, match="--no-auth is refused"):
            load_settings(host=host, no_auth=True)


@pytest.mark.parametrize("secret", ["", "x" * 31, "ä" * 15])
def test_a_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        load_settings(jwt_secret=secret)


def test_a_secret_is_measured_in_bytes() -> None:
    load_settings(jwt_secret="ä" * 16)


def test_a_secret_beside_a_public_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        load_settings(jwt_secret=SECRET, jwt_public_key="PEM")


def test_a_user_without_a_home_must_name_a_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(*_: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match="KERNELAGENT_STATE_DIR"):
        load_settings()
    assert load_settings(state_dir=tmp_path).state_dir == tmp_path
