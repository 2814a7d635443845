"""The registry of languages: names, kernelspecs, and what is said about those that are missing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import InvalidRequest, LanguageNotAvailable
from kernelagent.jupyter import languages as module
from kernelagent.jupyter.languages import Language, Languages, kernels_directory
from kernelagent.jupyter.requirements import find_command


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
    with pytest.raises(InvalidRequest, match=r"'cobol'.*python, javascript, .*bash, go") as refusal:
        Languages.load(kernels_directory()).find("cobol")
    ours = ["python", "javascript", "typescript", "bash", "go"]
    assert refusal.value.details == {"languages": ours}


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


def test_what_a_language_needs_is_looked_for(tmp_path: Path) -> None:
    def needing(*requirements: dict[str, Any]) -> Language:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_spec(folder, "go", metadata={"kernelagent": {"requires": requirements}})
        return Languages.load(folder).find("go")

    how = "get it in {resource_dir}"
    fine = {"command": "python3", "version": ["--version"], "at_least": "3.9", "how": how}
    assert needing(fine).available
    assert needing(fine).version.startswith("3.")
    newer = needing(fine | {"at_least": "99.1"})
    assert newer.missing is not None
    assert re.search(r"python3 99\.1 or newer is needed, .* is 3\.\d.*: get it in /", newer.missing)
    absent = needing({"command": "no-such-program", "how": how})
    assert str(absent.missing).startswith("no-such-program is not installed: get it in /")
    broken = needing({"command": "false", "how": how})
    assert str(broken.missing).startswith("false does not work (")
    file = needing(fine, {"file": "{resource_dir}/node_modules", "how": "npm ci"})
    assert file.missing == "node_modules is missing: npm ci"
    assert file.version.startswith("3.")
    assert needing({"file": "{resource_dir}/kernel.json", "how": how}).available


def test_a_program_beside_the_interpreter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_command(Path(sys.executable).name) == sys.executable
    assert find_command("no-such-program") is None


@pytest.fixture
def jupyter_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Jupyter finds kernelspecs."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    return tmp_path / "kernels"


def test_kernelspecs_that_users_have_installed_are_languages(jupyter_path: Path) -> None:
    write_spec(jupyter_path, "ir", argv=[sys.executable], language="R")
    languages = Languages.load()
    found = languages.find("r")
    assert found is languages.find("IR") is languages.find("R")
    assert (found.name, found.aliases, found.available) == ("r", ("ir",), True)
    assert not found.has_side_channel
    assert not found.can_fork
    assert [language.name for language in languages][:5] == [
        "python",
        "javascript",
        "typescript",
        "bash",
        "go",
    ]


def test_an_installed_kernelspec_takes_no_name_of_ours(jupyter_path: Path) -> None:
    write_spec(jupyter_path, "mine", argv=[sys.executable], language="python")
    write_spec(jupyter_path, "bash", argv=[sys.executable], language="sh")
    write_spec(jupyter_path, "kernelagent-go", argv=[sys.executable], language="go")
    write_spec(jupyter_path, "zwei", argv=[sys.executable], language="r")
    write_spec(jupyter_path, "eins", argv=[sys.executable], language="r")
    languages = Languages.load()
    assert languages.find("mine").kernelspec.argv == [sys.executable]
    assert languages.find("python").name == "python"
    assert languages.find("bash").has_side_channel
    # The second kernel of a language is known by its own name.
    assert languages.find("r") is languages.find("eins")
    assert languages.find("zwei").name == "zwei"
    names = [name for language in languages for name in (language.name, *language.aliases)]
    assert len(names) == len(set(names))


def test_an_installed_kernelspec_may_be_damaged_or_lack_its_program(jupyter_path: Path) -> None:
    write_spec(jupyter_path, "odd", argv=["/no/such/interpreter"], language="odd")
    (jupyter_path / "bad").mkdir()
    (jupyter_path / "bad" / "kernel.json").write_text("{")
    languages = Languages.load()
    odd = languages.find("odd")
    assert odd.missing == "/no/such/interpreter, which runs it, is not installed"
    with pytest.raises(InvalidRequest):
        languages.find("bad")


def test_languages_of_one_fork_server_have_one_key(tmp_path: Path) -> None:
    fork = ["python", "{resource_dir}/../host/launch.py", "--fork-server", "{descriptor}"]
    metadata = {"kernelagent": {"fork_server": fork, "driver": ["{resource_dir}/driver.py", "-x"]}}
    write_spec(tmp_path, "bash", metadata=metadata)
    write_spec(tmp_path, "go", metadata=metadata)
    languages = Languages.load(tmp_path)
    bash, go = languages.find("bash"), languages.find("go")
    assert bash.fork_key == go.fork_key
    assert bash.driver == [f"{tmp_path}/bash/driver.py", "-x"]
    assert Languages.load().find("python").fork_key != go.fork_key


def test_kernels_of_an_installed_package_come_before_those_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    monkeypatch.setattr(module, "_PACKAGE", package)
    assert kernels_directory() == tmp_path / "kernels"
    (package / "_kernels").mkdir(parents=True)
    assert kernels_directory() == package / "_kernels"


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in kernels_directory().glob("*/kernel.json"))
)
def test_each_kernel_that_we_ship_is_a_known_language_with_a_whole_kernelspec(folder: str) -> None:
    language = Languages.load().find(folder)
    assert language.name == folder
    assert language.missing is None
    spec = language.kernelspec
    assert "{connection_file}" in spec.argv
    assert spec.display_name
    assert spec.language == folder
    assert spec.interrupt_mode in ("signal", "message")
