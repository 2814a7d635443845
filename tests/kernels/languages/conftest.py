"""Servers whose kernels are forked, and plain ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels.languages.snippets import SNIPPETS, Snippets
from tests.servers import Server, serving


@pytest.fixture(scope="session", params=["forked", "plain"])
def languages_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server for all tests that leave it as it was."""
    root = tmp_path_factory.mktemp(f"languages-{request.param}")
    with serving(
        root,
        KERNELAGENT_FORK_SERVER="true" if request.param == "forked" else "false",
        KERNELAGENT_POOL_IDLE="0",
        KERNELAGENT_INTERRUPT_GRACE="1.5",
    ) as running:
        yield running


@pytest.fixture(params=list(SNIPPETS))
def language(request: pytest.FixtureRequest) -> str:
    """Each language that we ship."""
    name: str = request.param
    return name


@pytest.fixture
def snippets(language: str) -> Snippets:
    """The programs of the language."""
    return SNIPPETS[language]
