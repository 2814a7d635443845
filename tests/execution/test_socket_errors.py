"""Failing code and bad requests over a WebSocket."""

from __future__ import annotations

import json

import pytest
import websockets

from tests.execution.sockets import connected, execute, until_complete
from tests.runs import session, text_of, types
from tests.servers import Server


async def test_error_is_told_before_result_and_complete(server: Server) -> None:
    async with connected(server, "/execute/stream") as connection:
        items = await execute(connection, "1 / 0")

    assert types(items) == ["started", "stderr", "error", "result", "complete"]
    assert items[2]["error"] == "ZeroDivisionError: division by zero"
    assert items[2]["code"] == "EXECUTION_ERROR"
    assert items[3]["exit_code"] == 1
    assert items[4]["success"] is False


async def test_timeout_ends_with_result_and_complete(server: Server) -> None:
    async with connected(server, "/execute/stream") as connection:
        items = await execute(connection, "print(1)\nimport time; time.sleep(60)", timeout=0.3)

    assert types(items)[-2:] == ["result", "complete"]
    assert "time limit of 0.3 s" in text_of(items, "stderr")
    assert items[-2]["exit_code"] == 124
    assert items[-2]["timed_out"] is True
    assert items[-1]["success"] is False


async def test_lost_kernel_ends_with_result_and_complete(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        items = await execute(
            connection, "print('partial')\nimport os; os._exit(3)", session_id=session_id
        )

    assert types(items)[-2:] == ["result", "complete"]
    assert items[-2]["outcome"] == "kernel_died"
    assert text_of(items) == "partial\n"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", "INVALID_JSON"),
        ("", "INVALID_JSON"),
        ("[1]", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        ('{"code": "\\ud800"}', "INVALID_JSON"),
        ('{"code": "1", "timeout": NaN}', "INVALID_JSON"),
        ('{"code": "1", "timeout": 1' + "0" * 5000 + "}", "INVALID_JSON"),
        (b"\xff\x00", "INVALID_JSON"),
        ("{}", "MISSING_PARAMETER"),
        ('{"type": "execute", "code": 1}', "INVALID_REQUEST"),
        ('{"type": "execute", "code": "1", "timeout": -1}', "INVALID_REQUEST"),
        ('{"type": "execute", "code": "1", "language": "cobol"}', "INVALID_REQUEST"),
        ('{"type": "execute", "code": "1", "env": {"A": 1}}', "INVALID_REQUEST"),
        ('{"type": "explode"}', "INVALID_REQUEST"),
        ('{"type": ["execute"], "code": "1"}', "INVALID_REQUEST"),
        ('{"type": "execute", "code": "1", "workdir": "/no/such"}', "DIRECTORY_NOT_FOUND"),
        ('{"type": "execute", "code": "1", "language": "algol"}', "LANGUAGE_NOT_AVAILABLE"),
        ('{"type": "execute", "code": "1", "session_id": "unknown"}', "SESSION_NOT_FOUND"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_message_is_answered_by_error_and_complete_and_the_next_one_works(
    server: Server, message: str | bytes, code: str
) -> None:
    async with connected(server) as connection:
        await connection.send(message)
        items = await until_complete(connection)
        after = await execute(connection, "print('works')")

    assert types(items) == ["error", "complete"]
    assert items[0]["code"] == code
    assert items[0]["error"] == items[0]["message"]
    assert items[1]["success"] is False
    assert text_of(after) == "works\n"


async def test_request_as_bytes_is_read_like_text(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(b'{"type": "execute", "code": "print(1)"}')

        assert text_of(await until_complete(connection)) == "1\n"


async def test_too_many_waiting_messages_close_the_socket(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        body = {"code": "import time; time.sleep(60)", "session_id": session_id, "timeout": 90}
        with pytest.raises(websockets.ConnectionClosed) as closed:
            for _ in range(150):
                await connection.send(json.dumps(body))
            await until_complete(connection)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
