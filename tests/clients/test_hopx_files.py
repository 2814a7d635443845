"""The published hopx clients' calls for files, unmodified: Python, both ways, and JavaScript."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hopx_ai import AsyncSandbox, Sandbox
from hopx_ai.errors import FileNotFoundError as ClientFileNotFound
from hopx_ai.errors import HopxError

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.installed import javascript_client
from tests.servers import Service, serving_in_process

_SCRIPT = "files.mjs"
_TEXT = 'line "one"\nzwei é € 😀 & # + %25'
# No canonical Base64, which the Python client would decode.
_BYTES = bytes(range(256)) + b"\0\xff\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("files")
    app = str(root / "app")
    with serving_in_process(root, pool_idle=0, fork_server=False, file_roots=app) as running:
        yield running


@pytest.fixture
def work(server: Service, request: pytest.FixtureRequest) -> Path:
    """A directory of the test in the workspace."""
    directory = server.workspace / str(request.node.name)
    directory.mkdir()
    return directory


def test_the_python_client(server: Service, work: Path, tmp_path: Path) -> None:
    files = Sandbox.debug(agent_url=server.url, jwt_token=server.token).files
    name = str(work / "a b&c#d%25+é.txt")
    files.write(name, _TEXT)
    assert files.read(name) == _TEXT
    files.write(str(work / "script"), "#!/bin/sh", mode="0755")
    assert (work / "script").stat().st_mode & 0o777 == 0o755
    files.write_bytes(str(work / "deep" / "bytes"), _BYTES)
    assert (work / "deep" / "bytes").read_bytes() == _BYTES
    assert files.read_bytes(str(work / "deep" / "bytes")) == _BYTES
    # A cookbook reads a picture as text.
    assert isinstance(files.read(str(work / "deep" / "bytes")), str)
    app = str(server.directory / "app" / "dist" / "index.html")
    files.write(app, "<html>")
    assert files.read(app) == "<html>"

    items = {item.name: item for item in files.list(str(work))}
    assert set(items) == {"a b&c#d%25+é.txt", "deep", "script"}
    assert (items["deep"].is_directory, items["script"].is_directory) == (True, False)
    assert items["script"].size == len("#!/bin/sh")
    assert items["script"].permissions == "-rwxr-xr-x"
    assert items["script"].modified_time.tzinfo is not None

    (tmp_path / "local.bin").write_bytes(_BYTES)
    files.upload(str(tmp_path / "local.bin"), str(work / "uploaded"))
    assert (work / "uploaded").read_bytes() == _BYTES
    files.download(str(work / "uploaded"), str(tmp_path / "back.bin"))
    assert (tmp_path / "back.bin").read_bytes() == _BYTES

    assert files.exists(name)
    assert not files.exists(str(work / "missing"))
    assert not files.exists("/etc/passwd")
    files.mkdir(str(work / "made" / "deep"))
    files.mkdir(str(work / "made" / "deep"))
    assert (work / "made" / "deep").is_dir()
    files.remove(str(work / "made"))
    files.remove(name)
    assert not (work / "made").exists()
    for call in (files.read, files.read_bytes, files.remove):
        with pytest.raises(ClientFileNotFound):
            call(str(work / "missing"))
    with pytest.raises(HopxError) as caught:
        files.read("/etc/shadow")
    assert caught.value.code == "PATH_NOT_ALLOWED"
    with pytest.raises(HopxError) as caught:
        files.list(str(work / "missing"))
    assert caught.value.code == "DIRECTORY_NOT_FOUND"
    with pytest.raises(HopxError) as caught:
        files.read(str(work / "deep"))
    assert caught.value.code == "INVALID_PATH"


def test_fifty_megabytes_of_text(server: Service, work: Path) -> None:
    files = Sandbox.debug(agent_url=server.url, jwt_token=server.token).files
    text = "0123456789 é\n" * (50 * 2**20 // 14)
    files.write(str(work / "large"), text)
    assert (work / "large").stat().st_size == len(text.encode())
    assert files.read(str(work / "large")) == text


async def test_the_asynchronous_client(server: Service, work: Path) -> None:
    with control_plane(server) as base_url:
        sandbox: Any = await AsyncSandbox.connect(SANDBOX_ID, api_key="any", base_url=base_url)
        try:
            files = sandbox.files
            await files.write(str(work / "a b é.txt"), _TEXT)
            assert await files.read(str(work / "a b é.txt")) == _TEXT
            await files.write_bytes(str(work / "bytes"), _BYTES)
            assert (work / "bytes").read_bytes() == _BYTES
            assert await files.read_bytes(str(work / "bytes")) == _BYTES
            await files.mkdir(str(work / "made"))
            names = {item.name: item.is_directory for item in await files.list(str(work))}
            assert names == {"a b é.txt": False, "bytes": False, "made": True}
            assert await files.exists(str(work / "bytes"))
            assert not await files.exists(str(work / "missing"))
            assert not await files.exists("/etc/passwd")
            await files.remove(str(work / "made"))
            assert not (work / "made").exists()
            with pytest.raises(ClientFileNotFound):
                await files.read(str(work / "missing"))
        finally:
            await sandbox._agent_client.close()
            await sandbox._client.close()


async def test_the_javascript_client(server: Service, work: Path) -> None:
    with control_plane(server) as base_url:
        node = await asyncio.create_subprocess_exec(
            *javascript_client(_SCRIPT),
            base_url,
            str(work),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "NODE_NO_WARNINGS": "1"},
        )
        printed, _ = await asyncio.wait_for(node.communicate(), 100)
    assert node.returncode == 0
    got = json.loads(printed.splitlines()[-1])
    assert got["text"] is got["bytes"] is got["upload"] is True
    assert got["list"] == [
        ["a", True, got["list"][0][2], True],
        ["bytes", False, 6, True],
        ["dir", True, got["list"][2][2], True],
    ]
    assert got["exists"] == [True, False]
    assert got["removed"] is False
    assert got["missing"]["code"] == "FILE_NOT_FOUND"
    assert "no such file or directory" in got["missing"]["message"]
    assert got["denied"]["code"] == "PATH_NOT_ALLOWED"
    assert got["list_missing"]["code"] == "DIRECTORY_NOT_FOUND"
