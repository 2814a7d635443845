"""The WebSockets that run code: order, pacing, sizes, input, errors, clients that vanish."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import websockets

from tests.runs import Message, run, session, session_facts, text_of, types, until_busy
from tests.servers import SECRET, Server
from tests.waiting import until

PATHS = ("/execute/stream", "/stream", "/stream/ipython")

# What published clients accept.
LARGEST_MESSAGE = 2**20


@contextlib.asynccontextmanager
async def connected(
    server: Server, path: str = "/stream", **options: Any
) -> AsyncIterator[websockets.ClientConnection]:
    """A WebSocket with a good token and the limits of published clients."""
    options.setdefault("additional_headers", server.headers)
    async with websockets.connect(
        server.websocket_url + path, max_size=LARGEST_MESSAGE, **options
    ) as connection:
        yield connection


async def until_complete(connection: websockets.ClientConnection) -> list[Message]:
    """All messages up to `complete`."""
    items: list[Message] = []
    async with asyncio.timeout(60):
        while not items or items[-1]["type"] != "complete":
            items.append(json.loads(await connection.recv()))
    return items


async def execute(
    connection: websockets.ClientConnection, code: str, **fields: Any
) -> list[Message]:
    """All messages of one run."""
    await connection.send(json.dumps({"type": "execute", "code": code, **fields}))
    return await until_complete(connection)


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


# Failing code and bad requests


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


# Input and interrupts


async def test_input_message_answers_a_prompt(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"code": "print(input('name? ') + input('more? '))"}))
        items: list[Message] = []
        while not items or items[-1]["type"] != "complete":
            items.append(json.loads(await connection.recv()))
            if items[-1]["type"] == "input_request":
                field = "data" if items[-1]["prompt"] == "name? " else "value"
                await connection.send(json.dumps({"type": "input", field: "Ädä"}))

    assert text_of(items) == "ÄdäÄdä\n"


async def test_input_that_nobody_asked_for_is_an_error_and_no_end(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"type": "input", "data": "x"}))
        refusal = json.loads(await connection.recv())
        items = await execute(connection, "print(1)")

    assert refusal["type"] == "error"
    assert text_of(items) == "1\n"


async def test_interrupt_message_ends_the_run_and_keeps_the_state(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        await execute(connection, "kept = 1", session_id=session_id)
        body = {"code": "print('on', flush=True)\nimport time; time.sleep(60)"}
        await connection.send(json.dumps(body | {"session_id": session_id}))
        items: list[Message] = []
        while not items or items[-1]["type"] != "complete":
            items.append(json.loads(await connection.recv()))
            if items[-1]["type"] == "stdout":
                await connection.send(json.dumps({"type": "interrupt"}))
        after = await execute(connection, "print(kept)", session_id=session_id)

    assert items[-2]["outcome"] == "interrupted"
    assert items[-2]["exit_code"] == 130
    assert items[-1]["success"] is False
    assert text_of(after) == "1\n"


async def test_interrupt_sent_right_after_execute_is_not_lost(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        body = {"code": "import time; time.sleep(60)", "session_id": session_id}
        await connection.send(json.dumps(body))
        await connection.send(json.dumps({"type": "interrupt"}))
        items = await until_complete(connection)

    assert items[-2]["outcome"] == "interrupted"


async def test_interrupt_of_nothing_is_ignored(server: Server) -> None:
    async with connected(server) as connection:
        await connection.send(json.dumps({"type": "interrupt"}))
        items = await execute(connection, "print(1)")

    assert text_of(items) == "1\n"


# Pace and size


async def test_messages_are_at_least_five_milliseconds_apart(server: Server) -> None:
    code = "import sys\nfor n in range(60): print(n); print(n, file=sys.stderr)"
    async with connected(server) as connection:
        await connection.send(json.dumps({"code": code}))
        moments: list[float] = []
        items: list[Message] = []
        while not items or items[-1]["type"] != "complete":
            text = await connection.recv()
            moments.append(time.monotonic())
            items.append(json.loads(text))

    gaps = sorted(after - before for before, after in itertools.pairwise(moments))
    assert len(gaps) >= 4
    # Single ones may be read late by a busy machine, and the next one then seems early.
    assert gaps[len(gaps) // 2] >= 0.005
    assert gaps[len(gaps) // 5] >= 0.004
    assert text_of(items) == text_of(items, "stderr") == "".join(f"{n}\n" for n in range(60))


@pytest.mark.parametrize("path", ["/execute/stream", "/stream"])
async def test_five_megabytes_of_text_come_in_small_messages(server: Server, path: str) -> None:
    code = "for n in range(50_000): print(f'{n:05d}', 'x' * 93)"
    async with connected(server, path) as connection:
        items = await execute(connection, code)

    assert text_of(items) == "".join(f"{n:05d} {'x' * 93}\n" for n in range(50_000))
    assert items[-1]["success"] is True
    assert max(len(item["data"]) for item in items if "data" in item) <= 64 * 1024


async def test_characters_are_not_split_between_messages(server: Server) -> None:
    async with connected(server) as connection:
        items = await execute(connection, "print('🎉' * 200_000)")

    assert text_of(items) == "🎉" * 200_000 + "\n"


async def test_large_picture_comes_in_parts(server: Server) -> None:
    code = """
import os
from IPython.display import Image
data = os.urandom(2_000_000)
open('large.png', 'wb').write(data)
Image(data=data, format='png')
"""
    async with connected(server, "/stream") as connection:
        items = await execute(connection, code)

    parts = [item for item in items if item.get("mime") == "image/png"]
    assert len(parts) > 1
    assert [item["part"] for item in parts] == list(range(1, len(parts) + 1))
    assert {item["parts"] for item in parts} == {len(parts)}
    assert {item["encoding"] for item in parts} == {"text"}
    assert len({item["output"] for item in parts}) == 1
    picture = base64.b64decode("".join(item["data"] for item in parts))
    assert picture == (server.workspace / "large.png").read_bytes()
    assert types(items)[-2:] == ["result", "complete"]


async def test_large_json_comes_in_parts(server: Server) -> None:
    code = """
from IPython.display import display
display({'application/json': {'ä': ['x' * 1000] * 2000}}, raw=True)
"""
    async with connected(server, "/stream") as connection:
        items = await execute(connection, code)

    parts = [item for item in items if item.get("mime") == "application/json"]
    assert {item["encoding"] for item in parts} == {"json"}
    assert json.loads("".join(item["data"] for item in parts)) == {"ä": ["x" * 1000] * 2000}


async def test_large_unicode_html_stays_below_a_mebibyte_per_message(server: Server) -> None:
    code = "from IPython.display import HTML\nHTML('中🎉' * 300_000)"
    async with connected(server, "/stream") as connection:
        items = await execute(connection, code)

    parts = [item for item in items if item.get("mime") == "text/html"]
    assert "".join(item["data"] for item in parts) == "中🎉" * 300_000


@pytest.mark.parametrize("path", PATHS)
async def test_large_results_do_not_make_a_large_result_message(server: Server, path: str) -> None:
    async with connected(server, path) as connection:
        items = await execute(connection, "'中' * 1_000_000")

    assert types(items)[-2:] == ["result", "complete"]
    assert "result" not in items[-2]


async def test_huge_exception_text_stays_below_a_mebibyte_per_message(server: Server) -> None:
    async with connected(server) as connection:
        items = await execute(connection, "raise ValueError('中' * 3_000_000)")

    assert types(items)[-3:] == ["error", "result", "complete"]
    assert items[-3]["ename"] == "ValueError"


async def test_many_late_or_spilled_facts_do_not_make_a_large_result_message(
    server: Server,
) -> None:
    code = """
from IPython.display import HTML, display
for n in range(3000): display(HTML(str(n)))
"""
    async with connected(server, "/execute/stream") as connection:
        items = await execute(connection, code)

    assert types(items)[-2:] == ["result", "complete"]
    assert items[-2]["truncation"]["displays"] == 3000


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


# Clients that vanish


@pytest.mark.parametrize("path", PATHS)
async def test_client_that_vanishes_interrupts_its_run(server: Server, path: str) -> None:
    async with session(server) as session_id:
        async with connected(server, path) as connection:
            body = {"code": "on = 1\nimport time\ntime.sleep(60)", "timeout": 90}
            await connection.send(json.dumps(body | {"session_id": session_id}))
            await until_busy(server, session_id)
            queued = asyncio.create_task(run(server, "on", session_id=session_id))
            await until_busy(server, session_id, queued=1)
            # No close handshake: the client is gone.
            connection.transport.abort()

        answer = await queued
        facts = await session_facts(server, session_id)

    assert answer["result"] == "1"
    assert [entry["outcome"] for entry in facts["transcript"]] == ["cancelled", "ok"]


async def test_client_that_closes_properly_interrupts_its_run_too(server: Server) -> None:
    async with session(server) as session_id:
        async with connected(server) as connection:
            body = {"code": "import time; time.sleep(60)", "session_id": session_id}
            await connection.send(json.dumps(body | {"timeout": 90}))
            await until_busy(server, session_id)

        assert (await run(server, "1 + 1", session_id=session_id))["result"] == "2"


async def test_client_that_vanishes_may_wish_its_run_to_go_on(server: Server) -> None:
    async with session(server) as session_id:
        async with connected(server) as connection:
            code = "import time\nfor _ in range(20): time.sleep(0.05)\nended = True"
            body = {"code": code, "session_id": session_id, "on_disconnect": "continue"}
            await connection.send(json.dumps(body))
            await until_busy(server, session_id)

        assert (await run(server, "ended", session_id=session_id))["result"] == "True"


async def test_pings_are_answered_while_code_runs(server: Server) -> None:
    async with session(server) as session_id, connected(server) as connection:
        code = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
        await connection.send(json.dumps({"code": code, "session_id": session_id}))
        await until_busy(server, session_id)

        async with asyncio.timeout(5):
            await (await connection.ping())
        facts = await session_facts(server, session_id)
        await until_complete(connection)

    assert facts["state"] == "busy"


async def test_waiting_requests_of_a_vanished_client_are_not_run(server: Server) -> None:
    async with session(server) as session_id:
        async with connected(server) as connection:
            for code in ("import time; time.sleep(60)", "second = 1"):
                body = {"code": code, "session_id": session_id, "timeout": 90}
                await connection.send(json.dumps(body))
            await until_busy(server, session_id)

        async def is_idle() -> bool:
            return bool((await session_facts(server, session_id))["state"] == "idle")

        await until(is_idle)
        answer = await run(server, "'second' in dir()", session_id=session_id)

    assert answer["result"] == "False"
