"""Servers whose kernels are forked, and plain ones; sessions in each language."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.kernels.languages.snippets import SNIPPETS, Snippets
from tests.runs import session
from tests.servers import Server, serving
from tests.waiting import PATIENCE


@pytest.fixture(scope="session", params=["forked", "plain"])
def languages_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server for all tests that leave it as it was."""
    root = tmp_path_factory.mktemp(f"languages-{request.param}")
    with serving(
        root,
        KERNELAGENT_FORK_SERVER="true" if request.param == "forked" else "false",
        KERNELAGENT_PRELOAD="",
        KERNELAGENT_POOL_IDLE="0",
        KERNELAGENT_INTERRUPT_GRACE="10",
    ) as running:
        yield running


@pytest.fixture
def server(languages_server: Server) -> Server:
    """The server of these tests."""
    return languages_server


@pytest.fixture(scope="module", params=list(SNIPPETS))
def language(request: pytest.FixtureRequest) -> str:
    """Each language that we ship."""
    name: str = request.param
    return name


@pytest.fixture
def snippets(language: str) -> Snippets:
    """The programs of the language."""
    return SNIPPETS[language]


@pytest.fixture(scope="module")
async def own(languages_server: Server, language: str) -> AsyncIterator[dict[str, Any]]:
    """The fields that send a run to a session of the module's own."""
    async with session(languages_server, language=language) as session_id:
        yield {"session_id": session_id, "language": language, "timeout": PATIENCE}


@pytest.fixture
async def fresh(languages_server: Server, language: str) -> AsyncIterator[dict[str, Any]]:
    """The fields that send a run to a session in which nothing has run yet."""
    async with session(languages_server, language=language) as session_id:
        yield {"session_id": session_id, "language": language, "timeout": PATIENCE}
