"""The published hopx clients' terminals, unmodified: Python, both ways, and JavaScript."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hopx_ai import AsyncSandbox, Sandbox

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.installed import javascript_client
from tests.servers import WITHOUT_KERNELS, Server, serving
from tests.waiting import PATIENCE

_SCRIPT = "terminal.mjs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose shells read no files of the user's."""
    root = tmp_path_factory.mktemp("terminals")
    with serving(root, HOME=str(root), **WITHOUT_KERNELS) as running:
        yield running


async def drive(terminal: Any, connection: Any) -> tuple[str, int]:
    """All that a terminal prints, and its exit code, as the client's documentation does it."""
    await terminal.resize(connection, cols=120, rows=40)
    await terminal.send_input(connection, "stty size\n")
    await terminal.send_input(connection, "seq -f '<%g>' 20000\n")
    await terminal.send_input(connection, "echo 'é€😀'; exit 6\n")
    text, code = "", -1
    async with asyncio.timeout(PATIENCE):
        async for message in terminal.iter_output(connection):
            if message["type"] == "output":
                text += message["data"]
            elif message["type"] == "exit":
                # One example reads it before it looks at the type.
                assert message["data"] == ""
                code = message["code"]
                break
    return text, code


def check(text: str, code: int, count: int) -> None:
    assert code == 6
    assert "40 120\r\n" in text
    numbers = [int(number) for number in re.findall(r"<(\d+)>\r\n", text)]
    assert numbers == list(range(1, count + 1))
    assert "é€😀\r\n" in text


async def test_python(server: Server) -> None:
    with control_plane(server) as base_url:
        sandbox = await asyncio.to_thread(
            Sandbox.connect, SANDBOX_ID, api_key="any", base_url=base_url
        )
        terminal = await asyncio.to_thread(lambda: sandbox.terminal)
        async with await terminal.connect() as connection:
            check(*await drive(terminal, connection), 20_000)
        await asyncio.to_thread(sandbox._client.close)


async def test_python_asynchronously(server: Server) -> None:
    with control_plane(server) as base_url:
        sandbox = AsyncSandbox(SANDBOX_ID, api_key="any", base_url=base_url)
        async with await sandbox.terminal.connect() as connection:
            check(*await drive(sandbox.terminal, connection), 20_000)
        await sandbox._client.close()


async def test_the_command_mode_of_the_command_line_client(server: Server) -> None:
    """The command, a tenth of a second later `exit`; it stops at 1000 messages or after 30 s."""
    with control_plane(server) as base_url:
        sandbox = AsyncSandbox(SANDBOX_ID, api_key="any", base_url=base_url)
        connection = await sandbox.terminal.connect()
        await sandbox.terminal.send_input(connection, "seq 30000\n")
        await asyncio.sleep(0.1)
        await sandbox.terminal.send_input(connection, "exit\n")
        messages = []
        async with asyncio.timeout(PATIENCE):
            async for message in sandbox.terminal.iter_output(connection):
                messages.append(message)
        await connection.close()
        await sandbox._client.close()
    assert messages[-1] == {"type": "exit", "code": 0, "data": ""}
    assert len(messages) < 1000
    assert "\r\n30000\r\n" in "".join(message["data"] for message in messages)


@pytest.mark.timeout(120)
async def test_javascript(server: Server) -> None:
    with control_plane(server) as base_url:
        node = await asyncio.create_subprocess_exec(
            *javascript_client(_SCRIPT), base_url, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(node.communicate(), PATIENCE)
    assert node.returncode == 0
    got = json.loads(output.splitlines()[-1])
    assert got["kinds"] == ["output", "exit"]
    check(got["text"], got["code"], 2000)
