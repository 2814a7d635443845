"""POST /execute on real kernels: its answer, the state that it leaves, code that fails."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.runs import client_of, run, session
from tests.servers import Server

ANSI = "\x1b["


async def test_answer_has_every_field_of_the_contract(server: Server) -> None:
    answer = await run(server, "print('hello')\n6 * 7")

    assert answer["success"] is True
    assert answer["outcome"] == "ok"
    assert answer["exit_code"] == 0
    assert answer["stdout"] == "hello\n"
    assert answer["stderr"] == ""
    assert answer["result"] == "42"
    assert answer["language"] == "python"
    assert answer["session_id"] == "default-python"
    assert answer["execution_id"].startswith("exec_")
    assert isinstance(answer["execution_count"], int)
    assert isinstance(answer["execution_time"], float)
    assert isinstance(answer["queue_time"], float)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", answer["timestamp"])
    assert answer["state_lost"] is False
    assert answer["truncated"] is False
    assert answer["truncation"]["stdout_bytes"] == 6
    assert answer["rich_outputs"] == []
    assert answer["late_outputs"] == []
    assert answer["notes"] == []


async def test_nothing_that_clients_read_is_null(server: Server) -> None:
    answer = await run(server, "pass")

    assert [name for name, value in answer.items() if value is None] == []


async def test_rich_answer_has_all_outputs_in_nbformat_shape(server: Server) -> None:
    answer = await run(server, "print('a')\nprint('b')\n1", path="/execute/rich")

    stream, result = answer["outputs"]
    assert stream == {"output_type": "stream", "name": "stdout", "text": "a\nb\n"}
    assert result["output_type"] == "execute_result"
    assert result["data"] == {"text/plain": "1"}
    assert result["execution_count"] == answer["execution_count"]
    assert answer["display_updates"] == []


async def test_ipython_route_is_always_python(server: Server) -> None:
    answer = await run(server, "1 + 1", path="/execute/ipython", language="go")

    assert answer["language"] == "python"
    assert answer["result"] == "2"


@pytest.mark.parametrize("name", ["python", "python3", "py", "ipython", "Python", "PY", ""])
async def test_python_has_these_names(server: Server, name: str) -> None:
    answer = await run(server, "1", language=name)

    assert answer["language"] == "python"


async def test_nulls_mean_absent(server: Server) -> None:
    fields = (
        "language session_id isolated timeout queue_timeout request_timeout workdir working_dir "
        "cwd env max_output_bytes on_disconnect stdin cache cache_ttl input_files"
    )
    nulls: dict[str, Any] = dict.fromkeys(fields.split())

    answer = await run(server, "1 + 1", **nulls)

    assert answer["result"] == "2"


async def test_unknown_fields_are_accepted(server: Server) -> None:
    answer = await run(server, "1 + 1", rich=True, capture_rich=True, anything={"a": [1]})

    assert answer["result"] == "2"


async def test_larger_timeout_than_allowed_is_lowered(server: Server) -> None:
    answer = await run(server, "1 + 1", timeout=10**12)

    assert answer["result"] == "2"


# State


async def test_state_persists_between_calls(server: Server) -> None:
    await run(server, "import math\nkept = [math.pi]")

    assert (await run(server, "round(kept[0], 2)"))["result"] == "3.14"


async def test_all_routes_share_the_default_session(server: Server) -> None:
    await run(server, "shared = 5", path="/execute/ipython")

    assert (await run(server, "shared", path="/execute/rich"))["result"] == "5"
    assert (await run(server, "shared", session_id="default"))["result"] == "5"
    assert (await run(server, "shared", session_id="default-python"))["result"] == "5"


async def test_execution_count_grows_by_one(server: Server) -> None:
    async with session(server) as session_id:
        first = await run(server, "1", session_id=session_id)
        second = await run(server, "_ + 1", session_id=session_id)

    assert second["execution_count"] == first["execution_count"] + 1
    assert second["result"] == "2"


async def test_isolated_run_sees_no_session_and_leaves_none(server: Server) -> None:
    await run(server, "outside = 1")

    answer = await run(server, "inside = 1\n'outside' in dir()", isolated=True)

    assert answer["result"] == "False"
    assert answer["session_id"].startswith("isolated-")
    assert (await run(server, "'inside' in dir()"))["result"] == "False"
    async with client_of(server) as client:
        assert (await client.get(f"/sessions/{answer['session_id']}")).status_code == 404


# Failing code


async def test_exception_is_an_answer_with_its_traceback(server: Server) -> None:
    answer = await run(server, "print('before')\ndef f():\n    return 1 / 0\nf()\nprint('after')")

    assert answer["success"] is False
    assert answer["outcome"] == "error"
    assert answer["exit_code"] == 1
    assert answer["stdout"] == "before\n"
    assert answer["stderr"].startswith("---")
    assert answer["stderr"].endswith("ZeroDivisionError: division by zero\n")
    assert "return 1 / 0" in answer["stderr"]
    assert answer["error"]["ename"] == "ZeroDivisionError"
    assert answer["error"]["evalue"] == "division by zero"
    assert answer["state_lost"] is False


async def test_text_of_a_traceback_has_no_terminal_colours(server: Server) -> None:
    answer = await run(server, "raise ValueError('no')")

    assert ANSI not in answer["stderr"]
    assert any(ANSI in line for line in answer["error"]["traceback"])


async def test_what_code_prints_is_left_as_it_is(server: Server) -> None:
    answer = await run(server, "import sys\nprint('\\x1b[31mred\\x1b[0m')\nsys.stderr.write('err')")

    assert answer["stdout"] == "\x1b[31mred\x1b[0m\n"
    assert answer["stderr"] == "err"


async def test_syntax_error_is_an_answer(server: Server) -> None:
    answer = await run(server, "def (:")

    assert answer["outcome"] == "error"
    assert answer["error"]["ename"] == "SyntaxError"
    assert "SyntaxError" in answer["stderr"]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit(300)", 44),
        ("import sys; sys.exit('gone')", 1),
        ("exit(2)", 2),
        ("quit(2)\nhere = 2", 2),
    ],
)
async def test_exit_gives_its_code_and_keeps_the_session(
    server: Server, code: str, exit_code: int
) -> None:
    async with session(server) as session_id:
        await run(server, "here = 1", session_id=session_id)

        answer = await run(server, code, session_id=session_id)

        assert answer["exit_code"] == exit_code
        assert answer["success"] is False
        assert answer["outcome"] == "error"
        assert answer["state_lost"] is False
        assert (await run(server, "here", session_id=session_id))["result"] == "1"


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "raise SystemExit", "exit()"])
async def test_exit_without_a_code_is_a_success(server: Server, code: str) -> None:
    async with session(server) as session_id:
        answer = await run(server, code, session_id=session_id)

    assert answer["exit_code"] == 0
    assert answer["success"] is True
    assert answer["outcome"] == "ok"
