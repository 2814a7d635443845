"""The published hopx client, unmodified, talking to a real server.

Its `debug` mode needs no control plane, but looks one up for its sockets: those are tested by what
they send, in tests/execution/test_sockets.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest
from hopx_ai import AsyncSandbox, Sandbox
from hopx_ai._async_agent_client import AsyncAgentHTTPClient
from hopx_ai.errors import HopxError

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.installed import javascript_client
from tests.servers import Server


@pytest.fixture
def sandbox(server: Server) -> Any:
    """The client, pointed at the server."""
    return Sandbox.debug(agent_url=server.url, jwt_token=server.token)


def test_text_and_exit_code(sandbox: Any, server: Server) -> None:
    result = sandbox.run_code("print('hi')", working_dir=str(server.workspace))
    assert (result.success, result.stdout, result.exit_code) == (True, "hi\n", 0)


def test_a_figure_and_a_table(sandbox: Any, server: Server) -> None:
    result = sandbox.run_code(
        "import matplotlib.pyplot as plt, pandas as pd\n"
        "plt.plot([1, 2, 3]); plt.show()\n"
        "pd.DataFrame({'a': [1]})",
        working_dir=str(server.workspace),
    )
    kinds = [output.type.value for output in result.rich_outputs]
    assert kinds == ["image/png", "text/html", "application/vnd.dataframe+json"]


def test_failing_code_is_a_result(sandbox: Any, server: Server) -> None:
    result = sandbox.run_code("1/0", working_dir=str(server.workspace))
    assert (result.success, result.exit_code) == (False, 1)
    assert "ZeroDivisionError" in result.stderr


def test_a_timeout_is_a_result(sandbox: Any, server: Server) -> None:
    code = "print('on', flush=True)\nimport time; time.sleep(60)"
    result = sandbox.run_code(code, timeout=1, working_dir=str(server.workspace))
    assert (result.success, result.exit_code, result.stdout) == (False, 124, "on\n")


def test_environment_and_directory(sandbox: Any, server: Server) -> None:
    code = "import os; print(os.environ['X'], os.getcwd())"
    result = sandbox.run_code(code, env={"X": "'\"$"}, working_dir=str(server.workspace))
    assert result.stdout == f"'\"$ {server.workspace}\n"


@pytest.mark.parametrize(
    "arguments", [{"language": "cobol"}, {"working_dir": "/no/such/directory"}]
)
def test_bad_requests_are_exceptions_of_the_client(sandbox: Any, arguments: dict[str, str]) -> None:
    with pytest.raises(HopxError):
        sandbox.run_code("1", **arguments)


def test_identity_and_sessions(sandbox: Any, server: Server) -> None:
    assert sandbox.get_agent_info()["agent"] == "kernelagent"
    sandbox.run_code("1", working_dir=str(server.workspace))
    assert "default-python" in [item["id"] for item in sandbox.get_jupyter_sessions()]


# As the published cookbook has them: whole programs, the first one with a blank line before it.
_PROGRAMS = {
    "javascript": (
        "const numbers = [1, 2, 3, 4, 5];\n"
        "const doubled = numbers.map(n => n * 2);\n"
        "console.log('Doubled:', doubled);\n"
        "console.log(`Sum: ${doubled.reduce((a, b) => a + b, 0)}`);",
        "Doubled: [ 2, 4, 6, 8, 10 ]\nSum: 30\n",
    ),
    "bash": (
        'set -e\nfor i in 1 2 3; do\n  echo "Line $i"\ndone\nls -d / | wc -l',
        "Line 1\nLine 2\nLine 3\n1\n",
    ),
    "go": (
        '\npackage main\n\nimport (\n\t"fmt"\n\t"strings"\n)\n\n'
        'func main() {\n\tfmt.Println(strings.ToUpper("hello from go"))\n}\n',
        "HELLO FROM GO\n",
    ),
    "python": ("import sys\nprint('Python', sys.version_info.major)", "Python 3\n"),
}


@pytest.mark.parametrize("language", _PROGRAMS)
def test_programs_in_all_four_languages(sandbox: Any, server: Server, language: str) -> None:
    code, expected = _PROGRAMS[language]
    for _ in range(2):
        result = sandbox.run_code(
            code, language=language, timeout=60, working_dir=str(server.workspace)
        )
        assert (result.stdout, result.stderr, result.exit_code) == (expected, "", 0)
        assert result.success


def test_environment_in_other_languages(sandbox: Any, server: Server) -> None:
    for language, code in (("bash", 'echo "$X"'), ("javascript", "console.log(process.env.X)")):
        result = sandbox.run_code(
            code, language=language, env={"X": "1'2"}, working_dir=str(server.workspace)
        )
        assert result.stdout == "1'2\n"


def cache_two_runs(server: Server, code: str) -> None:
    """One run and one hit."""
    body = {"code": code, "isolated": True, "cache": True}
    for _ in range(2):
        server.request("POST", "/execute", json=body)


def test_statistics_of_the_cache_and_clearing_it(sandbox: Any, server: Server) -> None:
    sandbox.cache.clear()
    cache_two_runs(server, "'sync'")

    stats = sandbox.cache.stats()
    # As the client's documentation prints it.
    assert f"{stats['hit_rate']:.2%}" != "0.00%"
    assert stats["hits"] >= 1 <= stats["misses"]
    assert stats["count"] == stats["total_cached"] == 1
    assert 0 < stats["size"] < 0.01

    result = sandbox.cache.clear()
    assert result["message"].startswith("Cache cleared successfully")
    assert result.get("entries_removed", 0) == 1
    assert sandbox.cache.stats()["count"] == 0


async def test_statistics_of_the_cache_and_clearing_it_asynchronously(server: Server) -> None:
    sandbox = AsyncSandbox("local", api_key="unused")
    # What it makes itself once the control plane has told it the address.
    sandbox._agent_client = AsyncAgentHTTPClient(agent_url=server.url, jwt_token=server.token)
    try:
        await sandbox.cache.clear()
        cache_two_runs(server, "'async'")

        stats = await sandbox.cache.stats()
        assert (stats["count"], stats["cache"]["size"]) == (1, 1)
        assert stats["cache"]["total_hits"] == stats["hits"] >= 1

        assert await sandbox.cache.clear() is None
        assert (await sandbox.cache.stats())["count"] == 0
    finally:
        await sandbox._agent_client.close()


_LINES = "for n in range(1000): print(n, flush=n % 100 == 0)"
_PRINTED = "".join(f"{n}\n" for n in range(1000))


def text_of(messages: list[dict[str, Any]]) -> str:
    return "".join(message["data"] for message in messages if message["type"] == "stdout")


async def test_streams(server: Server) -> None:
    with control_plane(server) as url:
        sandbox = Sandbox(SANDBOX_ID, api_key="any", base_url=url)
        messages = [
            message
            async for message in sandbox.run_code_stream(_LINES, working_dir=str(server.workspace))
        ]
        await asyncio.to_thread(sandbox._client.close)
    assert text_of(messages) == _PRINTED
    assert messages[-1]["type"] == "complete"


async def test_streams_and_sessions_asynchronously(server: Server) -> None:
    with control_plane(server) as url:
        sandbox = AsyncSandbox(SANDBOX_ID, api_key="any", base_url=url)
        messages = []
        async for message in sandbox.run_code_stream(_LINES, working_dir=str(server.workspace)):
            messages.append(message)
        sessions = await sandbox.get_jupyter_sessions()
        if sandbox._agent_client is not None:
            await sandbox._agent_client.close()
        await sandbox._client.close()
    assert text_of(messages) == _PRINTED
    assert "default-python" in [session["id"] for session in sessions]


def test_the_javascript_client(server: Server) -> None:
    script = javascript_client("code.mjs")
    with control_plane(server) as url:
        done = subprocess.run(
            [*script, url, server.workspace],
            env={**os.environ, "NO_PROXY": "127.0.0.1,localhost"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["code"]["success"], got["code"]["stdout"]) == (True, "42\n")
    assert "ZeroDivisionError" in got["failed"]["stderr"]
    assert got["javascript"]["stdout"] == "[ 2, 4 ]\n"
    assert "42" in json.dumps(got["ipython"])
    assert text_of(got["streamed"]) == _PRINTED
    assert "default-python" in [session["id"] for session in got["sessions"]]
    assert (got["variable"], got["missing"]) == ("yes", "none")
    assert got["stats"]["cache"]["max_size"] > 0
    assert got["cleared"]["success"] is True
