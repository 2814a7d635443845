"""The registry of languages: names, kernelspecs, and what is said about those that are missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import InvalidRequest, LanguageNotAvailable
from kernelagent.jupyter import languages as module
from kernelagent.jupyter.languages import Languages, kernels_directory


def write_spec(folder: Path, name: str, **spec: Any) -> None:
    """A kernelspec for the language `name` in `folder`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "kernel.json").write_text(
        json.dumps({"argv": ["kernel", "{connection_file}"], "display_name": name, **spec})
    )


def test_python_is_there() -> None:
    python = Languages.load().find("python")
    assert python.available
    assert python.has_side_channel
    assert python.kernelspec.interrupt_mode == "signal"
    assert Path(python.command(Path("c.json"))[1]).is_file()


@pytest.mark.parametrize("name", [None, "", "python", "Python3", " PY ", "ipython", "python3"])
def test_python_has_several_names_and_is_the_default(name: str | None) -> None:
    assert Languages.load().find(name).name == "python"


@pytest.mark.parametrize(
    ("alias", "name"),
    [("node", "javascript"), ("JS", "javascript"), ("sh", "bash"), ("golang", "go")],
)
def test_other_languages_are_known_by_their_aliases(alias: str, name: str) -> None:
    assert Languages.load().find(alias).name == name


def test_no_name_means_two_languages() -> None:
    names = [name for language in Languages.load() for name in (language.name, *language.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.strip().lower() for name in names)


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"'cobol'.*python, javascript, bash, go") as refusal:
        Languages.load().find("cobol")
    assert refusal.value.details == {"languages": ["python", "javascript", "bash", "go"]}


def test_a_name_without_end_is_shortened_in_the_refusal() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Languages.load().find("x" * 100_000)
    assert len(refusal.value.message) < 200


def test_a_language_without_a_kernel_says_so(tmp_path: Path) -> None:
    write_spec(tmp_path, "python")
    go = Languages.load(tmp_path).find("go")
    assert not go.available
    with pytest.raises(LanguageNotAvailable, match="go is not available here") as refusal:
        go.command(Path("c.json"))
    assert refusal.value.details == {"language": "go", "how": go.missing}
    with pytest.raises(LanguageNotAvailable):
        _ = go.has_side_channel


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"argv": []}', '{"argv": 5}', "\xff"])
def test_a_damaged_kernelspec_makes_its_language_unavailable(tmp_path: Path, text: str) -> None:
    write_spec(tmp_path, "bash")
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "kernel.json").write_text(text, encoding="latin-1")
    found = Languages.load(tmp_path)
    assert found.find("bash").available
    with pytest.raises(LanguageNotAvailable, match=r"python/kernel\.json"):
        _ = found.find("python").kernelspec


def test_placeholders_of_a_command_are_filled_in(tmp_path: Path) -> None:
    argv = ["{prefix}/bin/kernel", "{resource_dir}/start", "-f", "{connection_file}", "{other}"]
    write_spec(tmp_path, "go", argv=argv)
    assert Languages.load(tmp_path).find("go").command(Path("/run/c.json")) == [
        f"{sys.prefix}/bin/kernel",
        f"{tmp_path}/go/start",
        "-f",
        "/run/c.json",
        "{other}",
    ]


@pytest.mark.parametrize("name", ["python", "python3"])
def test_a_kernel_in_python_runs_on_the_interpreter_of_the_service(
    tmp_path: Path, name: str
) -> None:
    write_spec(tmp_path, "bash", argv=[name, "-m", "python"])
    assert Languages.load(tmp_path).find("bash").command(Path("c")) == [
        sys.executable,
        "-m",
        "python",
    ]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, False),
        ({"kernelagent": {}}, False),
        ({"kernelagent": {"side_channel": True}}, True),
    ],
)
def test_a_kernelspec_says_whether_its_kernel_has_a_side_channel(
    tmp_path: Path, metadata: dict[str, Any], expected: bool
) -> None:
    write_spec(tmp_path, "go", metadata=metadata)
    assert Languages.load(tmp_path).find("go").has_side_channel is expected


def test_kernels_of_an_installed_package_come_before_those_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    monkeypatch.setattr(module, "_PACKAGE", package)
    assert kernels_directory() == tmp_path / "kernels"
    (package / "_kernels").mkdir(parents=True)
    assert kernels_directory() == package / "_kernels"


@pytest.mark.parametrize("folder", [path.name for path in kernels_directory().iterdir()])
def test_each_kernel_that_we_ship_is_a_known_language_with_a_whole_kernelspec(folder: str) -> None:
    language = Languages.load().find(folder)
    assert language.name == folder
    assert language.missing is None
    spec = language.kernelspec
    assert "{connection_file}" in spec.argv
    assert spec.display_name
    assert spec.language == folder
    assert spec.interrupt_mode in ("signal", "message")
