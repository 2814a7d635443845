"""The key of a cached result: equal for equal runs only, files read within limits."""

from __future__ import annotations

import itertools
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec

from kernelagent.errors import FileNotFound, LanguageNotAvailable
from kernelagent.execution.cache.key import InputFile, Stopped, make_key, read_files
from kernelagent.jupyter.languages import Language
from kernelagent.jupyter.outputs import Budget


def language(**changes: Any) -> Language:
    """A language whose kernelspec differs from the usual one by `changes`."""
    fields = {
        "argv": ["python", "-m", "kernel"],
        "env": {"A": "1"},
        "metadata": {},
        "language": "python",
        "display_name": "Python",
        "resource_dir": "kernels/python",
    }
    return Language("python", ("py",), KernelSpec(**fields | changes), version="3.11.1")


def file(digest: str) -> InputFile:
    return InputFile(digest, (1, 2, 3, 4))


FACTS: dict[str, Any] = {
    "language": language(),
    "code": "1",
    "inherited": {"PATH": "/bin"},
    "env": {"B": "2"},
    "directory": Path("/tmp"),
    "budget": Budget(100, 10),
    "files": {"a": file("aa")},
}

# Each of them must make another key: than the facts above, and than all others.
CHANGES: list[dict[str, Any]] = [
    {},
    {"language": replace(language(), name="python4")},
    {"language": replace(language(), version="3.11.2")},
    {"language": language(argv=["python", "-m", "kernel", ""])},
    {"language": language(argv=["python", "-m kernel"])},
    {"language": language(env={"A": "2"})},
    {"language": language(env={})},
    {"language": language(metadata={"x": 1})},
    {"language": language(resource_dir="elsewhere/python")},
    {"language": language(interrupt_mode="message")},
    {"code": ""},
    {"code": "1\n"},
    {"code": '1", "env": {}'},
    {"inherited": {}},
    {"inherited": {"PATH": "/bin", "B": "2"}, "env": {}},
    {"inherited": {}, "env": {"PATH": "/bin", "B": "2"}},
    {"inherited": {"PATH": "/bin\udcff"}},
    {"inherited": {"PATH": "/bin\\udcff"}},
    {"env": {}},
    {"env": {"B": ""}},
    {"env": {"B2": ""}},
    {"env": {"B": "2", "C": "3"}},
    {"env": {"B": "2C=3"}},
    {"env": {"B": '2", "C": "3'}},
    {"directory": None},
    {"directory": Path("/tmp/x")},
    {"budget": Budget(101, 10)},
    {"budget": Budget(10, 100)},
    {"files": {}},
    {"files": {"a": file("ab")}},
    {"files": {"aa": file("a")}},
    {"files": {"a": file("aa"), "b": file("bb")}},
    {"files": {"a": file("bb"), "b": file("aa")}},
    {"files": {"ab": file("aabb")}},
]


def key(**changes: Any) -> bytes:
    facts = FACTS | changes
    return make_key(facts.pop("language"), facts.pop("code"), **facts)


def test_no_two_different_runs_have_the_same_key() -> None:
    for (first, one), (second, other) in itertools.combinations(
        [(changes, key(**changes)) for changes in CHANGES], 2
    ):
        assert one != other, f"{first} and {second}"


def test_order_does_not_matter() -> None:
    files = {"a": file("aa"), "b": file("bb")}
    env = {"x": "1", "y": "2"}
    assert key(files=files, env=env) == key(
        files=dict(reversed(files.items())), env=dict(reversed(env.items()))
    )


def test_only_the_content_of_a_file_matters() -> None:
    assert key(files={"a": InputFile("aa", (9, 9, 9, 9))}) == key()


def test_a_key_is_small() -> None:
    assert len(key(code="x" * 10_000_000)) == 32


def test_language_that_is_not_installed_has_no_key() -> None:
    with pytest.raises(LanguageNotAvailable):
        key(language=replace(language(), missing="it is not there"))


# Files


def never() -> bool:
    return False


def test_files_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "link").symlink_to("../a")
    (tmp_path / "empty").touch()

    found = read_files(tmp_path, ["a", "sub/link", str(tmp_path / "a"), "empty", "a"], never)

    assert list(found) == ["a", "sub/link", str(tmp_path / "a"), "empty"]
    assert len({item.digest for item in found.values()}) == 2
    assert found["a"].digest.startswith("ba7816bf")
    assert found["a"] == found["sub/link"]


def test_a_file_that_was_replaced_by_an_equal_one_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = read_files(tmp_path, ["a"], never)
    os.utime(tmp_path / "a", ns=(0, 1))
    after = read_files(tmp_path, ["a"], never)

    assert before["a"].digest == after["a"].digest
    assert before != after


def test_a_large_file_is_read_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(200 * 2**20)

    tracemalloc.start()
    try:
        read_files(tmp_path, ["large"], never)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 2**20


def test_reading_stops_when_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    stop = threading.Event()
    stop.set()

    with pytest.raises(Stopped):
        read_files(tmp_path, ["a"], stop.is_set)


@pytest.mark.parametrize("name", ["missing", ".", "pipe", "/dev/zero", "a/b", "n\0l", "\udcff"])
def test_what_is_no_regular_file_is_an_error_with_its_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(FileNotFound) as caught:
        read_files(tmp_path, ["a", name], never)

    assert caught.value.details == {"path": str(tmp_path / name)}


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))

    with pytest.raises(FileNotFound):
        read_files(tmp_path, ["pipe"], never)
