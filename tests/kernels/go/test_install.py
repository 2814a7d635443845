"""Where the Go kernel finds what was compiled for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kernelagent.jupyter.languages import kernels_directory


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, for an environment and a home in which nothing has been installed."""
    path = kernels_directory() / "go" / "install.py"
    spec = importlib.util.spec_from_file_location("go_install_of_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "environment").mkdir()

    def compile_nothing(_: str, made: object) -> None:
        program = made.program  # type: ignore[attr-defined]
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)

    monkeypatch.setattr(module, "_install", compile_nothing)
    return module


def test_what_is_installed_for_all_serves_users_whose_home_is_empty(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = install.ensure_installed(for_all=True)
    assert made.program.is_relative_to(tmp_path / "environment" / "share")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another user"))
    assert install.ensure_installed() == made
    assert not (tmp_path / "of another user").exists()
    assert not (tmp_path / "cache").exists()


def test_a_kernel_installs_for_its_own_user(install: ModuleType, tmp_path: Path) -> None:
    made = install.ensure_installed()
    assert made.program.is_relative_to(tmp_path / "cache")
    assert not (tmp_path / "environment" / "share").exists()
    assert install.ensure_installed() == made
    # Which does not help the others.
    assert install.ensure_installed(for_all=True) != made


def test_an_environment_of_somebody_else_is_not_written_to(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_is_writable", lambda folder: "cache" in folder.parts)
    made = install.ensure_installed(for_all=True)
    assert made.program.is_relative_to(tmp_path / "cache")


def test_what_cannot_be_executed_does_not_count(install: ModuleType) -> None:
    made = install.ensure_installed(for_all=True)
    made.program.unlink()
    assert install.ensure_installed().program != made.program
