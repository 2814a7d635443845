"""The directory of a key is hidden whole, but never what is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernelagent.isolation import hidden
from kernelagent.isolation.hidden import Hidden


def find(tmp_path: Path, *keys: Path) -> Hidden:
    """With a workspace and a state directory in `tmp_path`."""
    for name in ("workspace", "state"):
        (tmp_path / name).mkdir(exist_ok=True)
    return hidden.find_hidden(tmp_path / "state", keys, [tmp_path / "workspace"])


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("secret")
    return path


def test_a_directory_of_keys_is_hidden_whole(tmp_path: Path) -> None:
    key, other = make(tmp_path / "keys" / "jwt"), make(tmp_path / "keys" / "other")
    state = str(tmp_path / "state")
    assert find(tmp_path, key, other) == (
        [state, str(key.parent)],
        [state, str(key), str(other)],
        [],
    )


def test_a_key_in_the_state_directory_is_hidden_with_it(tmp_path: Path) -> None:
    key = make(tmp_path / "state" / "keys" / "jwt")
    plain = make(tmp_path / "state" / "jwt")
    assert find(tmp_path, key, plain).paths == [str(tmp_path / "state")]
    assert find(tmp_path, key, plain).bare == []


def test_what_is_not_there_is_not_hidden(tmp_path: Path) -> None:
    assert find(tmp_path, tmp_path / "keys" / "jwt").paths == [str(tmp_path / "state")]


@pytest.mark.parametrize("place", ["above", "workspace", "with folders", "of everybody"])
def test_a_directory_that_is_needed_is_not_hidden(tmp_path: Path, place: str) -> None:
    key = make(tmp_path / "jwt" if place == "above" else tmp_path / place / "jwt")
    if place == "with folders":
        (key.parent / "folder").mkdir()
    if place == "of everybody":
        key.parent.chmod(0o1777)
    found = find(tmp_path, key)
    assert found.paths == [str(tmp_path / "state"), str(key)]
    assert found.bare == [str(key)]


def test_a_volume_of_kubernetes_is_hidden_with_its_next_versions(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    make(volume / "..2024" / "jwt")
    (volume / "..data").symlink_to("..2024")
    (volume / "jwt").symlink_to("..data/jwt")
    for key in (volume / "jwt", volume / "..data" / "jwt"):
        found = find(tmp_path, key)
        assert found.paths == [str(tmp_path / "state"), str(volume)]
        assert found.secrets[1] == os.path.realpath(key)
        assert found.bare == []


def test_a_link_that_can_be_replaced_is_told(tmp_path: Path) -> None:
    key = make(tmp_path / "keys" / "jwt")
    link = tmp_path / "workspace" / "link"
    link.parent.mkdir()
    link.symlink_to(key)
    found = find(tmp_path, link)
    assert found.paths == [str(tmp_path / "state"), str(key.parent)]
    assert found.bare == [str(link)]
