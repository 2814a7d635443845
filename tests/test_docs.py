"""The documentation: what follows from the code is up to date, what links leads somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelagent.app import create_app
from kernelagent.reference import error_classes, pages, route_table
from kernelagent.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TOP = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES = [*(ROOT / name for name in TOP), *sorted(DOCS.rglob("*.md"))]

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each code block of `languages`."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        if found[2] in languages:
            indent = found[1]
            lines = [line.removeprefix(indent) for line in found[3].splitlines()]
            yield text[: found.start()].count("\n") + 1, "\n".join(lines)


def links(page: Path) -> list[str]:
    """The targets of all links outside code blocks."""
    text = _BLOCK.sub("", page.read_text())
    return [found[1] or found[2] for found in _LINK.finditer(text)]


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings make, in the way of GitHub."""
    text = _BLOCK.sub("", page.read_text())
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    }


def test_each_page_has_a_title_and_an_end() -> None:
    for page in PAGES:
        text = page.read_text()
        assert re.search(r"^# \S", text, re.MULTILINE), page
        assert text.endswith("\n"), page


def test_no_page_has_marks_of_a_merge() -> None:
    for page in PAGES:
        assert not re.search(r"^(<{7}|>{7}|\|{7}) ", page.read_text(), re.MULTILINE), page


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """The pages that follow from the code."""
    return pages()


GENERATED = ("settings.md", "errors.md", "routes.md", "cli.md")


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_up_to_date(name: str, generated: dict[str, str]) -> None:
    assert tuple(generated) == GENERATED
    assert (DOCS / name).read_text() == generated[name], "run `make docs`"


def test_generated_pages_do_not_depend_on_the_environment(
    monkeypatch: pytest.MonkeyPatch, generated: dict[str, str]
) -> None:
    monkeypatch.setenv("KERNELAGENT_HOST", "0.0.0.0")  # noqa: S104 - nothing listens
    monkeypatch.setenv("KERNELAGENT_PORT", "1")
    assert pages() == generated


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"`{ENV_PREFIX}{name.upper()}`" in text
        assert field.description
        assert field.description in text


def test_settings_that_pages_name_exist() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{ENV_PREFIX}JWT_SECRET_FILE", f"{ENV_PREFIX}JWT_PUBLIC_KEY_FILE"}
    # Read by the command line's clients, not by the service.
    known |= {f"{ENV_PREFIX}URL", f"{ENV_PREFIX}TOKEN"}
    for page in PAGES:
        for name in re.findall(rf"{ENV_PREFIX}[A-Z_]*[A-Z]", page.read_text()):
            assert name in known, f"{page.name} names {name}"


def test_every_error_is_documented() -> None:
    text = (DOCS / "errors.md").read_text()
    for error in error_classes():
        assert f"`{error.code}`" in text


def test_every_route_is_documented() -> None:
    text = (DOCS / "routes.md").read_text()
    for name, _, summary in route_table(create_app(Settings.model_construct(no_auth=True))):
        assert f"| `{name}` |" in text
        assert summary in text


def test_every_message_of_a_stream_is_documented() -> None:
    text = (DOCS / "streams.md").read_text()
    for module in ("messages.py", "streams.py"):
        source = (ROOT / "kernelagent" / "execution" / module).read_text()
        for kind in re.findall(r'"type": "(\w+)"', source):
            assert f"`{kind}`" in text, kind


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in (ROOT / "README.md", DOCS / "index.md")
        for target in links(page)
    }
    for page in DOCS.rglob("*.md"):
        if page.name != "index.md":
            assert page in linked, f"no link leads to {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "mailto:")), target
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in headings(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_pages_can_be_parsed(page: Path) -> None:
    for line, code in blocks(page, "python", "py"):
        try:
            ast.parse(code)
        except SyntaxError as error:
            pytest.fail(f"{page.name}, block at line {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_in_pages_can_be_parsed(page: Path) -> None:
    for line, text in blocks(page, "json", "ndjson"):
        # Blocks of messages have one on each line.
        try:
            json.loads(text)
        except ValueError:
            try:
                for message in text.splitlines():
                    if message.strip():
                        json.loads(message)
            except ValueError as error:
                pytest.fail(f"{page.name}, block at line {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_commands_in_pages_can_be_parsed(page: Path) -> None:
    for line, text in blocks(page, "sh", "bash", "shell"):
        # A name in angle brackets stands for what the reader fills in.
        command = re.sub(r"<[\w ]+>", "x", text)
        checked = subprocess.run(
            ["bash", "-n"], input=command, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{page.name}, line {line}: {checked.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_name_a_language_that_is_known(page: Path) -> None:
    known = {
        "python",
        "sh",
        "json",
        "ndjson",
        "text",
        "toml",
        "yaml",
        "javascript",
        "typescript",
        "go",
        "dockerfile",
        "nginx",
        "ini",
        "http",
        "mermaid",
        "html",
    }
    for found in _BLOCK.finditer(page.read_text()):
        assert found[2] in known, f"{page.name}: a block of {found[2]!r}"
