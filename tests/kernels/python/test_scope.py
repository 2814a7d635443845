"""Environment and directory of a session and of one run: set, and put back exactly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelagent_python.scope import RunScope, ScopeError, configure


@pytest.fixture(autouse=True)
def _same_place_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test has a directory and an environment of its own."""
    environment = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in ("A", "B"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(environment)


def test_a_session_keeps_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    os.environ["B"] = "old"
    configure({"A": "'\"$\n"}, ["B", "NEVER_SET"], str(tmp_path / "inner"))
    assert os.environ["A"] == "'\"$\n"
    assert "B" not in os.environ
    assert Path.cwd() == tmp_path / "inner"


def test_a_session_without_a_directory_stays_where_it_is(tmp_path: Path) -> None:
    configure({}, [], None)
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_directory_that_cannot_be_entered_changes_nothing_of_a_session(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScopeError, match=str(tmp_path / kind)):
        configure({"A": "1"}, [], str(tmp_path / kind))
    assert "A" not in os.environ
    assert Path.cwd() == tmp_path


def test_a_run_has_its_own_environment_and_directory(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    os.environ["A"] = "old"
    before = dict(os.environ)
    scope = RunScope()
    scope.enter({"A": "new", "B": ""}, str(tmp_path / "inner"))
    assert (os.environ["A"], os.environ["B"]) == ("new", "")
    assert Path.cwd() == tmp_path / "inner"
    scope.leave()
    assert dict(os.environ) == before
    assert Path.cwd() == tmp_path


def test_what_a_run_itself_changed_stays_changed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    scope = RunScope()
    scope.enter({"A": "1"}, None)
    os.environ["B"] = "set by code"
    os.chdir(tmp_path / "inner")
    scope.leave()
    assert os.environ["B"] == "set by code"
    assert Path.cwd() == tmp_path / "inner"


def test_what_a_run_does_to_its_own_variables_is_undone(tmp_path: Path) -> None:
    os.environ["A"] = "old"
    scope = RunScope()
    scope.enter({"A": "1", "B": "1"}, None)
    del os.environ["A"]
    del os.environ["B"]
    scope.leave()
    assert os.environ["A"] == "old"
    assert "B" not in os.environ


def test_a_run_that_changes_the_directory_comes_back(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    scope = RunScope()
    scope.enter({}, str(tmp_path / "inner"))
    os.chdir("/")
    scope.leave()
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_directory_that_cannot_be_entered_changes_nothing_of_a_run(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_text("")
    scope = RunScope()
    with pytest.raises(ScopeError, match=kind):
        scope.enter({"A": "1"}, str(tmp_path / kind))
    assert "A" not in os.environ
    assert Path.cwd() == tmp_path


def test_leaving_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    scope = RunScope()
    scope.enter({"A": "1"}, str(tmp_path))
    scope.leave()
    os.environ["A"] = "later"
    scope.leave()
    assert os.environ["A"] == "later"


def test_entering_puts_back_first_what_was_left_behind(tmp_path: Path) -> None:
    scope = RunScope()
    scope.enter({"A": "1"}, None)
    scope.enter({"B": "2"}, None)
    assert "A" not in os.environ
    scope.leave()
    assert "B" not in os.environ


def test_leaving_that_was_cut_short_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    scope = RunScope()
    scope.enter({"A": "1", "B": "1"}, str(tmp_path / "inner"))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "chdir", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scope.leave()
    assert Path.cwd() == tmp_path / "inner"
    os.environ["A"] = "set meanwhile"
    scope.leave()
    assert Path.cwd() == tmp_path
    assert os.environ["A"] == "set meanwhile"
    assert "B" not in os.environ


def test_interrupts_wait_until_everything_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    scope = RunScope()
    scope.enter({"A": "1"}, str(tmp_path))
    seen = []
    monkeypatch.setattr(os, "chdir", lambda _: seen.append(signal.getsignal(signal.SIGINT)))
    scope.leave()
    assert seen == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_thread_that_gets_no_interrupts_can_leave_too() -> None:
    scope = RunScope()
    scope.enter({"A": "1"}, None)
    thread = threading.Thread(target=scope.leave)
    thread.start()
    thread.join()
    assert "A" not in os.environ


def test_a_directory_that_was_removed_is_not_gone_back_to(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    os.chdir(tmp_path / "old")
    scope = RunScope()
    scope.enter({"A": "1"}, str(tmp_path))
    (tmp_path / "old").rmdir()
    scope.leave()
    assert Path.cwd() == tmp_path
    assert "A" not in os.environ


def test_a_run_can_leave_a_directory_that_was_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    os.chdir(tmp_path / "old")
    (tmp_path / "old").rmdir()
    scope = RunScope()
    scope.enter({}, str(tmp_path))
    assert Path.cwd() == tmp_path
    scope.leave()
    assert Path.cwd() == tmp_path
