"""The WebSockets that run code: their opening, the order of their messages."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
import websockets

from tests.execution.sockets import PATHS, connected, execute, until_complete
from tests.runs import session, text_of, types
from tests.servers import SECRET, Server

# Order


@pytest.mark.parametrize("path", PATHS)
async def test_messages_come_in_order_with_one_result_and_complete_last(
    server: Server, path: str
) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('end')"
    async with connected(server, path) as connection:
        items = await execute(
            connection, code, language="python", timeout=60, workdir=str(server.workspace)
        )

    assert types(items)[0] == "started"
    assert types(items)[-2:] == ["result", "complete"]
    assert types(items).count("result") == types(items).count("complete") == 1
    assert text_of(items) == "out\nend\n"
    assert text_of(items, "stderr") == "err\n"
    assert items[-2]["exit_code"] == 0
    assert isinstance(items[-2]["execution_time"], float)
    assert items[-1]["success"] is True
    assert all(item["timestamp"].endswith("Z") for item in items)


async def test_execute_stream_sends_text_and_keeps_pictures_for_the_result(
    server: Server,
) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1]); plt.show(); print('x')\n6 * 7"
    async with connected(server, "/execute/stream") as connection:
        items = await execute(connection, code)

    assert types(items) == ["started", "stdout", "result", "complete"]
    assert base64.b64decode(items[-2]["png"]).startswith(b"\x89PNG")
    assert items[-2]["result"] == "42"


@pytest.mark.parametrize("path", ["/stream", "/stream/ipython"])
async def test_stream_sends_what_is_shown_where_it_is_shown(server: Server, path: str) -> None:
    code = "import matplotlib.pyplot as plt\nprint('a'); plt.plot([1]); plt.show(); print('b')"
    async with connected(server, path) as connection:
        items = await execute(connection, code)

    rich = [item for item in items if item["type"] == "rich"]
    assert rich[0]["mime"] == "image/png"
    order = [kind for kind in dict.fromkeys(types(items)) if kind in ("stdout", "rich")]
    assert order == ["stdout", "rich"]
    assert types(items).index("rich") < [item.get("data") for item in items].index("b\n")
    assert "png" not in items[-2]


async def test_ipython_socket_is_always_python(server: Server) -> None:
    async with connected(server, "/stream/ipython") as connection:
        items = await execute(connection, "1 + 1", language="go")

    assert items[-2]["language"] == "python"
    assert items[-1]["success"] is True


async def test_several_runs_on_one_socket_share_the_session(server: Server) -> None:
    async with connected(server) as connection:
        first = await execute(connection, "on_the_socket = 1")
        second = await execute(connection, "print(on_the_socket)")

    assert first[-1]["success"] is True
    assert text_of(second) == "1\n"


async def test_runs_sent_at_once_are_answered_one_after_the_other(server: Server) -> None:
    async with connected(server) as connection:
        for number in range(5):
            await connection.send(json.dumps({"type": "execute", "code": f"print({number})"}))
        answers = [await until_complete(connection) for _ in range(5)]

    assert [text_of(items) for items in answers] == [f"{number}\n" for number in range(5)]
    assert all(types(items).count("started") == 1 for items in answers)


async def test_type_may_be_left_out(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"code": "print(1)"}))
        absent = await until_complete(connection)
        await connection.send(json.dumps({"type": None, "code": "print(2)", "env": None}))
        null = await until_complete(connection)

    assert text_of(absent) == "1\n"
    assert text_of(null) == "2\n"


async def test_environment_directory_and_session_count_here_too(server: Server) -> None:
    (server.workspace / "below").mkdir(exist_ok=True)
    async with session(server) as session_id, connected(server) as connection:
        items = await execute(
            connection,
            "import os\nprint(os.environ['GIVEN'], os.path.basename(os.getcwd()))",
            env={"GIVEN": "a\n$b"},
            working_dir="below",
            session_id=session_id,
        )

    assert text_of(items) == "a\n$b below\n"
    assert items[0]["session_id"] == session_id


# Opening


async def test_token_in_the_query(server: Server) -> None:
    path = f"/execute/stream?token={server.token}"
    async with connected(server, path, additional_headers={}) as connection:
        items = await execute(connection, "print(1)")

    assert text_of(items) == "1\n"


def token(**claims: Any) -> str:
    good = {"sandbox_id": "local", "exp": 4_000_000_000, "jti": "x"}
    return jwt.encode(good | claims, SECRET, algorithm="HS256")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "AUTHENTICATION_REQUIRED"),
        ({"Authorization": "Bearer nonsense"}, 401, "TOKEN_INVALID"),
        ({"Authorization": f"Bearer {token(exp=1_000_000_000)}"}, 401, "TOKEN_EXPIRED"),
        ({"Authorization": f"Bearer {token(sandbox_id='other')}"}, 403, "ACCESS_DENIED"),
        ({"Authorization": f"Bearer {token(scope='files')}"}, 403, "ACCESS_DENIED"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_handshake_without_a_good_token_is_refused(
    server: Server, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(server, path, additional_headers=headers):
            pass

    response = refused.value.response
    assert response.status_code == status
    body = json.loads(response.body or b"")
    assert body["code"] == code
    assert body["message"] == body["error"]
    assert body["request_id"] == response.headers["X-Request-ID"]


async def test_accepted_handshake_has_a_request_id(server: Server) -> None:
    async with connected(server) as connection:
        assert connection.response is not None
        assert connection.response.headers["X-Request-ID"]


async def test_unknown_socket_is_404(server: Server) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(server, "/nothing"):
            pass

    assert refused.value.response.status_code == 404
