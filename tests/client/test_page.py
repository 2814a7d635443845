"""The examples of docs/client.md do what the page says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from kernelagent.client import AsyncClient, Client
from tests.servers import Server

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
# Code, and what it prints.
_EXAMPLE = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
EXAMPLES = [(found[1], found[2]) for found in _EXAMPLE.finditer(PAGE.read_text())]


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_an_example_prints_what_the_page_shows(
    code: str,
    printed: str | None,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KERNELAGENT_TOKEN", server.token)
    code = code.replace("http://127.0.0.1:7777", server.url)
    with Client(server.url, token=server.token) as client:
        exec(code, {"client": client})  # noqa: S102 - the code is the documentation's
    assert capsys.readouterr().out == (printed or "")


def test_every_method_is_in_the_table() -> None:
    text = PAGE.read_text()
    for name, _ in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_"):
            assert re.search(rf"\| .*`{name}[`(]", text), name
