"""Cached runs on real kernels: when the code runs, and when an answer of another run will do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.execution.cache.cached import cached_run, clear, counting, runs, statistics
from tests.runs import NDJSON, client_of, refused, run
from tests.servers import Server

# Asking


async def test_second_run_is_answered_without_running_the_code(
    server: Server, counter: Path
) -> None:
    code = counting(counter, "import time; time.sleep(0.05)\nprint('shown')\n6 * 7")

    first = await cached_run(server, code)
    second = await cached_run(server, code)

    assert runs(counter) == 1
    assert first["cached"] is False
    assert "age" not in first
    assert second["cached"] is True
    assert isinstance(second.pop("age"), float)
    assert second == first | {"cached": True}
    assert (second["stdout"], second["result"]) == ("shown\n", "42")


async def test_both_shapes_come_from_one_run(server: Server, counter: Path) -> None:
    code = counting(counter, "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))")

    plain = await cached_run(server, code)
    rich = await cached_run(server, code, path="/execute/rich")
    again = await cached_run(server, code, path="/execute/ipython", language="go")
    fresh = await run(server, code, path="/execute/rich", isolated=True)

    assert runs(counter) == 2
    assert set(rich) == set(fresh) | {"cached", "age"}
    assert set(again) == set(plain) | {"age"}
    assert [item["output_type"] for item in rich["outputs"]] == ["display_data"]
    assert rich["html"] == again["html"] == "<b>x</b>"


async def test_a_run_that_does_not_ask_is_neither_cached_nor_marked(
    server: Server, counter: Path
) -> None:
    code = counting(counter)
    await cached_run(server, code)
    before = await statistics(server)

    for fields in ({}, {"cache": False}, {"cache": None}, {"cache": False, "cache_ttl": 5}):
        answer = await run(server, code, isolated=True, **fields)
        assert not {"cached", "age"} & set(answer)

    assert runs(counter) == 5
    after = await statistics(server)
    assert {name: after[name] - before[name] for name in ("hits", "misses", "stores")} == {
        "hits": 0,
        "misses": 0,
        "stores": 0,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cache": True}, "add isolated: true"),
        ({"cache_ttl": 5}, "add isolated: true"),
        ({"cache": True, "isolated": False}, "add isolated: true"),
        ({"cache": True, "isolated": True, "session_id": "default"}, "drop session_id"),
        ({"input_files": ["x"], "isolated": True}, "add cache: true"),
        ({"input_files": [], "cache": False, "isolated": True}, "add cache: true"),
        ({"cache": True, "isolated": True, "cache_ttl": 0}, "cache_ttl"),
        ({"cache": True, "isolated": True, "input_files": ["x"] * 1001}, "input_files"),
        ({"cache": True, "isolated": True, "input_files": "x"}, "input_files"),
        ({"cache": True, "isolated": True, "language": "cobol"}, "unknown language"),
    ],
)
async def test_what_cannot_be_cached_is_refused(
    server: Server, fields: dict[str, Any], words: str
) -> None:
    body = await refused(server, 400, "1", **fields)

    assert body["code"] == "INVALID_REQUEST"
    assert words in body["message"]


@pytest.mark.parametrize(
    "fields", [{"cache": True}, {"cache_ttl": 3}, {"input_files": ["x"]}], ids=str
)
async def test_streams_cannot_be_cached(server: Server, fields: dict[str, Any]) -> None:
    body = {"code": "1", "isolated": True, **fields}
    async with client_of(server, Accept=NDJSON) as client:
        response = await client.post("/execute", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")

    url = f"{server.websocket_url}/stream"
    async with connect(url, additional_headers=server.headers) as connection:
        await connection.send(json.dumps(body))
        assert json.loads(await connection.recv())["code"] == "INVALID_REQUEST"


# What is not kept


@pytest.mark.parametrize(
    "then",
    [
        "1/0",
        "import sys; sys.exit(3)",
        "import os; os._exit(1)",
        "import time; time.sleep(60)",
        "print('x' * 5000)",
    ],
)
async def test_failed_and_cut_results_are_not_kept(
    server: Server, counter: Path, then: str
) -> None:
    code = counting(counter, then)
    fields = {"timeout": 0.5 if "sleep" in then else 20, "max_output_bytes": 1024}
    before = await statistics(server)

    for _ in range(2):
        assert (await cached_run(server, code, **fields))["cached"] is False

    assert runs(counter) == 2
    assert (await statistics(server))["refused"] == before["refused"] + 2


BASE: dict[str, Any] = {"language": "python", "code": "import os; print(sorted(os.listdir()))"}


# What a result depends on


@pytest.mark.parametrize(
    "change",
    [
        {"code": BASE["code"] + " "},
        {"env": {"A": "1"}},
        {"env": {"A": "2"}},
        {"env": {"B": "1"}},
        {"env": {"A": "", "B": "1"}},
        {"workdir": "/"},
        {"max_output_bytes": 2048},
        {"language": "bash", "code": "print() { :; }"},
    ],
    ids=str,
)
async def test_a_result_is_never_that_of_another_run(
    server: Server, change: dict[str, Any]
) -> None:
    await clear(server)
    await cached_run(server, **BASE)

    assert (await cached_run(server, **BASE | change))["cached"] is False
    assert (await cached_run(server, **BASE | change))["cached"] is True
    assert (await cached_run(server, **BASE))["cached"] is True


async def test_the_same_code_in_another_language_is_another_run(server: Server) -> None:
    code = "# nothing"
    python = await cached_run(server, code)
    bash = await cached_run(server, code, language="bash")

    assert [python["language"], bash["language"]] == ["python", "bash"]
    assert [python["cached"], bash["cached"]] == [False, False]


async def test_other_names_and_limits_are_the_same_run(server: Server, counter: Path) -> None:
    code = counting(counter)
    await cached_run(server, code)

    changes: list[dict[str, Any]] = [
        {"language": "py"},
        {"timeout": 33},
        {"env": {}},
        {"workdir": ""},
        {"on_disconnect": "continue"},
        {"input_files": []},
    ]
    for fields in changes:
        assert (await cached_run(server, code, **fields))["cached"] is True

    assert runs(counter) == 1
