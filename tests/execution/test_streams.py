"""A run over HTTP as NDJSON and as server-sent events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.execution.streams import EVENT_STREAM, waiting
from tests.runs import (
    NDJSON,
    all_messages,
    client_of,
    messages,
    run,
    session,
    streamed,
    text_of,
    types,
    until_busy,
)
from tests.servers import Server
from tests.waiting import until

DRAW = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\n"


# NDJSON


async def test_stream_begins_with_started_and_ends_with_result_and_complete(
    server: Server,
) -> None:
    items = await all_messages(server, "print('hello')\n6 * 7")

    assert types(items) == ["started", "stdout", "rich", "result", "complete"]
    started, stdout, rich, result, complete = items
    assert started["session_id"] == "default-python"
    assert started["execution_id"] == result["execution_id"]
    assert started["execution_count"] == result["execution_count"]
    assert stdout["data"] == "hello\n"
    assert rich["mime"] == "text/plain"
    assert rich["data"] == "42"
    assert result["result"] == "42"
    assert result["exit_code"] == 0
    assert result["success"] is True
    assert isinstance(result["execution_time"], float)
    assert complete["success"] is True
    assert all(item["timestamp"].endswith("Z") for item in items)


async def test_every_byte_of_ndjson_is_ascii_and_every_line_is_a_message(server: Server) -> None:
    code = "print('ä \\u2028 \\u0085 \\x0c \\x1c 🎉')\n"
    code += "from IPython.display import HTML\nHTML('<b>中</b>')"

    async with client_of(server, Accept=NDJSON) as client:
        response = await client.post("/execute", json={"code": code})

    assert response.headers["content-type"] == NDJSON
    assert response.content.isascii()
    lines = response.content.split(b"\n")
    assert lines.pop() == b""
    items = [json.loads(line) for line in lines]
    assert text_of(items) == "ä \u2028 \u0085 \x0c \x1c 🎉\n"
    assert any(item.get("data") == "<b>中</b>" for item in items)


@pytest.mark.parametrize("path", ["/execute", "/execute/rich", "/execute/ipython"])
@pytest.mark.parametrize("accept", ["Application/X-NDJSON; q=1", f"text/html, {NDJSON};q=0.5"])
async def test_accept_header_asks_for_a_stream_on_each_route(
    server: Server, path: str, accept: str
) -> None:
    async with client_of(server, Accept=accept) as client:
        response = await client.post(path, json={"code": "print(1)"})

    assert response.headers["content-type"] == NDJSON
    assert types([json.loads(line) for line in response.text.splitlines()])[-1] == "complete"


async def test_stream_is_not_for_proxies_to_collect(server: Server) -> None:
    async with streamed(server, "1") as response:
        await response.aread()

    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-store"
    assert "content-length" not in response.headers
    assert response.headers["x-request-id"]


async def test_output_arrives_while_the_code_runs(server: Server, tmp_path: Path) -> None:
    code = "\n".join(
        f"print({step}, flush=True)\n{waiting(tmp_path / str(step))}" for step in range(3)
    )

    async with streamed(server, code, timeout=30) as response:
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "stdout":
                (tmp_path / item["data"].strip()).touch()

    assert text_of(items) == "0\n1\n2\n"
    assert items[-1]["success"] is True


async def test_headers_arrive_before_the_code_runs(server: Server, tmp_path: Path) -> None:
    async with session(server) as session_id:
        first = asyncio.create_task(run(server, waiting(tmp_path / "go"), session_id=session_id))
        await until_busy(server, session_id)

        async with streamed(server, "2", session_id=session_id) as response:
            assert not first.done()
            (tmp_path / "go").touch()
            items = [item async for item in messages(response)]
        await first

    assert types(items)[0] == "started"
    assert items[-1]["success"] is True


async def test_figure_is_streamed_in_all_its_forms(server: Server) -> None:
    items = await all_messages(server, DRAW)

    rich = [item for item in items if item["type"] == "rich"]
    assert rich[0]["mime"] == "image/png"
    assert {item["mime"] for item in rich} == {
        "image/png",
        "text/plain",
        "application/vnd.kernelagent.chart+json",
    }
    assert [item["mime"] for item in rich if item["primary"]] == ["image/png"]
    assert {item["output"] for item in rich} == {1}
    assert {item["metadata"]["source"] for item in rich} == {"matplotlib"}


async def test_updates_and_clearing_are_streamed(server: Server) -> None:
    code = """
from IPython.display import HTML, clear_output, display
handle = display(HTML('one'), display_id='the-id')
handle.update(HTML('two'))
clear_output(wait=True)
print('end')
"""
    items = await all_messages(server, code)

    shown = [item for item in items if item.get("mime") == "text/html"]
    assert types(shown) == ["rich", "update_display"]
    assert [item["display_id"] for item in shown] == ["the-id", "the-id"]
    assert [item["data"] for item in shown] == ["one", "two"]
    (clear,) = [item for item in items if item["type"] == "clear_output"]
    assert clear["wait"] is True
    assert text_of(items) == "end\n"


async def test_error_is_streamed_as_text_and_as_message(server: Server) -> None:
    items = await all_messages(server, "print('before')\n1 / 0")

    assert types(items) == ["started", "stdout", "stderr", "error", "result", "complete"]
    error = items[3]
    assert error["error"] == error["message"] == "ZeroDivisionError: division by zero"
    assert error["code"] == "EXECUTION_ERROR"
    assert error["ename"] == "ZeroDivisionError"
    assert "\x1b[" not in items[2]["data"]
    assert items[4]["exit_code"] == 1
    assert items[5]["success"] is False


async def test_timeout_is_streamed_with_result_and_complete(server: Server) -> None:
    items = await all_messages(server, "print('part')\nimport time; time.sleep(60)", timeout=0.3)

    assert types(items)[-2:] == ["result", "complete"]
    assert items[-2]["exit_code"] == 124
    assert items[-2]["timed_out"] is True
    assert items[-2]["code"] == "EXECUTION_TIMEOUT"
    assert text_of(items) == "part\n"
    assert "time limit" in text_of(items, "stderr")


async def test_queue_timeout_of_a_stream_is_an_error_and_complete(
    server: Server, tmp_path: Path
) -> None:
    async with session(server) as session_id:
        first = asyncio.create_task(run(server, waiting(tmp_path / "go"), session_id=session_id))
        await until_busy(server, session_id)

        items = await all_messages(server, "2", session_id=session_id, queue_timeout=0.2)
        (tmp_path / "go").touch()
        await first

    assert types(items) == ["error", "complete"]
    assert items[0]["code"] == "QUEUE_TIMEOUT"
    assert items[1]["success"] is False


async def test_ten_thousand_prints_are_streamed_in_order(server: Server) -> None:
    items = await all_messages(server, "for n in range(10_000): print(n)")

    assert text_of(items) == "".join(f"{n}\n" for n in range(10_000))


async def test_long_text_is_streamed_in_pieces_below_64_kib(server: Server) -> None:
    items = await all_messages(server, "print('ä' * 1_000_000)")

    assert text_of(items) == "ä" * 1_000_000 + "\n"
    assert all(len(item["data"].encode()) <= 2 * 64 * 1024 for item in items if "data" in item)


async def test_truncation_is_told_in_the_stream(server: Server) -> None:
    items = await all_messages(server, "print('x' * 5000)", max_output_bytes=1024)

    result = items[-2]
    assert result["truncated"] is True
    assert result["truncation"]["stdout_bytes"] == 5001
    assert "exceeds the output budget" in text_of(items)


async def test_late_output_comes_with_the_result_of_the_next_stream(
    server: Server, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    code = f"""
import pathlib, threading, time
def later():
    while not pathlib.Path({str(tmp_path / "go")!r}).exists(): time.sleep(0.01)
    print('late')
    pathlib.Path({str(said)!r}).touch()
threading.Thread(target=later, daemon=True).start()
"""

    async def has_been_said() -> bool:
        return said.exists()

    async with session(server) as session_id:
        await run(server, code, session_id=session_id)
        (tmp_path / "go").touch()
        await until(has_been_said)
        late: list[Any] = []

        async def has_come() -> bool:
            items = await all_messages(server, "print('own')", session_id=session_id)
            assert text_of(items) == "own\n"
            late.extend(items[-2].get("late_outputs", []))
            return bool(late)

        await until(has_come)

    assert late == [{"output_type": "stream", "name": "stdout", "text": "late\n"}]


# Server-sent events


async def test_events_carry_the_type_and_the_message(server: Server) -> None:
    async with client_of(server, Accept=EVENT_STREAM) as client:
        response = await client.post("/execute", json={"code": "print('a\\n\\nb')"})

    assert response.headers["content-type"].startswith(EVENT_STREAM)
    events = response.text.removesuffix("\n\n").split("\n\n")
    items = []
    for event in events:
        name, data = event.split("\n")
        items.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {items[-1]['type']}"
    assert types(items) == ["started", "stdout", "result", "complete"]
    assert text_of(items) == "a\n\nb\n"
