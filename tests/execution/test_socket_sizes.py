"""Pace and size of the messages of a WebSocket."""

from __future__ import annotations

import base64
import itertools
import json
import time

import pytest

from tests.execution.sockets import PATHS, connected, execute
from tests.runs import Message, text_of, types
from tests.servers import Server


async def test_messages_are_at_least_five_milliseconds_apart(server: Server) -> None:
    code = "import sys\nfor n in range(60): print(n); print(n, file=sys.stderr)"
    # What a busy machine reads late seems to come with the next one, so several runs are looked at.
    # Without a pace, they are at most some hundred microseconds apart in each of them.
    for _ in range(5):
        async with connected(server) as connection:
            await connection.send(json.dumps({"code": code}))
            moments: list[float] = []
            items: list[Message] = []
            while not items or items[-1]["type"] != "complete":
                text = await connection.recv()
                moments.append(time.monotonic())
                items.append(json.loads(text))

        assert text_of(items) == text_of(items, "stderr") == "".join(f"{n}\n" for n in range(60))
        gaps = sorted(after - before for before, after in itertools.pairwise(moments))
        assert len(gaps) >= 4
        if gaps[len(gaps) // 2] >= 0.005 and gaps[len(gaps) // 5] >= 0.004:
            break
    else:
        pytest.fail(f"the gaps are {gaps}")


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
