"""One server without kernels for all; one with small limits and two allowed directories."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runs import client_of
from tests.servers import WITHOUT_KERNELS, Server, serving

UPLOAD_LIMIT = 4 * 2**20
WRITE_LIMIT = 2 * 2**20
ARCHIVE_LIMIT = 16 * 2**20
ENTRY_LIMIT = 200


@dataclass(frozen=True)
class Files:
    """A server, and its directories seen from outside."""

    server: Server
    client: httpx.AsyncClient
    workspace: Path
    other: Path
    outside: Path
    state: Path

    async def ask(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that must have this status."""
        response = await self.client.request(method, path, **options)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()

    async def refused(
        self, method: str, path: str, status: int, code: str, **options: Any
    ) -> dict[str, Any]:
        """The body of an answer that must be this error."""
        body: dict[str, Any] = await self.ask(method, path, status, **options)
        assert body["code"] == code, body
        assert body["error"] == body["message"]
        return body

    async def write(self, path: str, content: str = "", **fields: Any) -> Any:
        """Have a file."""
        return await self.ask(
            "POST", "/files/write", json={"path": path, "content": content, **fields}
        )

    async def read(self, path: str) -> str:
        """A file's contents."""
        return str((await self.ask("GET", "/files/read", params={"path": path}))["content"])

    async def names(self, **params: Any) -> list[str]:
        """What a list has."""
        answer = await self.ask("GET", "/files/list", params=params)
        assert answer["count"] == len(answer["files"])
        return [item["name"] for item in answer["files"]]

    @property
    def leftovers(self) -> list[Path]:
        """What is not finished."""
        return list(self.workspace.parent.rglob(".kernelagent-part-*"))


@contextlib.contextmanager
def files_server(
    root: Path, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[Server]:
    """A server with `other` allowed and `outside` not."""
    for name in ("other", "outside", "workspace"):
        (root / name).mkdir()
    (root / "outside" / "secret").write_text("SECRET")
    settings = {
        **WITHOUT_KERNELS,
        "KERNELAGENT_FILE_ROOTS": f"{root / 'other'},{root / 'mounts'}",
        **(environment or {}),
    }
    with serving(root, python=(*prefix, sys.executable), **settings) as running:
        yield running


def files_of(server: Server, client: httpx.AsyncClient) -> Files:
    root = server.workspace.parent
    return Files(
        server, client, root / "workspace", root / "other", root / "outside", root / "state"
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that leave it as it was; no keepalive wakes anything in it."""
    settings = {
        **WITHOUT_KERNELS,
        # Where the directories of tests are, and where a test says that there is nothing.
        "KERNELAGENT_FILE_ROOTS": f"{tempfile.gettempdir()},/tmp",
        "KERNELAGENT_KEEPALIVE": "3600",
    }
    with serving(tmp_path_factory.mktemp("quiet"), **settings) as running:
        yield running


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {
        "KERNELAGENT_MAX_UPLOAD_BYTES": str(UPLOAD_LIMIT),
        "KERNELAGENT_MAX_WRITE_BYTES": str(WRITE_LIMIT),
        "KERNELAGENT_MAX_ARCHIVE_BYTES": str(ARCHIVE_LIMIT),
        "KERNELAGENT_MAX_ARCHIVE_ENTRIES": str(ENTRY_LIMIT),
    }
    with files_server(tmp_path_factory.mktemp("files"), limits) as running:
        yield running


@pytest.fixture
async def files(small_server: Server) -> AsyncIterator[Files]:
    """The server, whose directories are empty; nothing unfinished may be left."""
    async with client_of(small_server) as client:
        files = files_of(small_server, client)
        yield files
        assert files.leftovers == []
        assert (files.outside / "secret").read_text() == "SECRET"
        assert [path.name for path in files.outside.iterdir()] == ["secret"]
        for path in (*files.workspace.iterdir(), *files.other.iterdir()):
            if path.is_dir() and not path.is_symlink():
                await asyncio.to_thread(shutil.rmtree, path)
            else:
                path.unlink()
