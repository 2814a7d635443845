"""Cached runs on real kernels: when the code runs, and when an answer of another run will do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.runs import NDJSON, client_of, refused, run
from tests.servers import Server, serving
from tests.waiting import until


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file that the code of `counting` makes longer by a byte whenever it runs."""
    return tmp_path / "runs"


def counting(counter: Path, then: str = "") -> str:
    return f"with open({str(counter)!r}, 'a') as f: f.write('x')\n{then}"


def runs(counter: Path) -> int:
    return counter.stat().st_size if counter.exists() else 0


async def cached_run(server: Server, code: str, **fields: Any) -> dict[str, Any]:
    return await run(server, code, **{"isolated": True, "cache": True, **fields})


async def statistics(server: Server) -> dict[str, Any]:
    async with client_of(server) as client:
        response = await client.get("/cache/stats")
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def clear(server: Server) -> dict[str, Any]:
    async with client_of(server) as client:
        response = await client.post("/cache/clear")
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def until_runs(counter: Path, wanted: int) -> None:
    async def have_begun() -> bool:
        return runs(counter) >= wanted

    await until(have_begun)


# Asking


async def test_second_run_is_answered_without_running_the_code(
    server: Server, counter: Path
) -> None:
    code = counting(counter, "import time; time.sleep(2)\nprint('shown')\n6 * 7")

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


# What a result depends on

BASE: dict[str, Any] = {"language": "python", "code": "import os; print(sorted(os.listdir()))"}


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


# Input files


async def test_a_result_holds_while_its_input_is_the_same(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    fields = {"workdir": str(tmp_path), "input_files": ["in.txt"]}
    code = "print(open('in.txt').read())"

    shown = []
    for text in ("one", "one", "two", "one", "one "):
        file.write_text(text)
        answer = await cached_run(server, code, **fields)
        shown.append((answer["stdout"], answer["cached"]))

    assert shown == [
        ("one\n", False),
        ("one\n", True),
        ("two\n", False),
        ("one\n", True),
        ("one \n", False),
    ]


async def test_input_files_without_a_directory_are_in_the_workspace(server: Server) -> None:
    code = "print(open('cache-table.csv').read())"
    (server.workspace / "cache-table.csv").write_text("a,b")
    try:
        first = await cached_run(server, code, input_files=["cache-table.csv"])
        second = await cached_run(server, code, input_files=["cache-table.csv"] * 2)
        other = await cached_run(server, code, input_files=["./cache-table.csv"])
    finally:
        (server.workspace / "cache-table.csv").unlink()

    assert [first["cached"], second["cached"], other["cached"]] == [False, True, False]


async def test_contents_that_change_places_are_other_inputs(server: Server, tmp_path: Path) -> None:
    fields = {"workdir": str(tmp_path), "input_files": ["a", "b"]}
    answers = []
    for a, b in (("1", "2"), ("2", "1"), ("12", "")):
        (tmp_path / "a").write_text(a)
        (tmp_path / "b").write_text(b)
        answers.append(await cached_run(server, "print(open('a').read())", **fields))

    assert [answer["cached"] for answer in answers] == [False] * 3


@pytest.mark.parametrize("name", ["missing", "", ".", "folder", "pipe", "link-to-pipe", "/dev/zero",
    "/dev/tty", "dangling", "socket/x", "nul\0l", "x" * 5000, "/proc/kmsg"],
    ids=lambda name: name[:12].replace("\0", "0") or "empty")  # fmt: skip
async def test_what_is_no_readable_file_is_refused(
    server: Server, tmp_path: Path, name: str, counter: Path
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link-to-pipe").symlink_to("pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "good").write_text("x")

    body = await refused(
        server, 404, counting(counter), isolated=True, cache=True, workdir=str(tmp_path),
        input_files=["good", name], request_timeout=5,
    )  # fmt: skip

    assert body["code"] == "FILE_NOT_FOUND"
    assert body["details"]["path"] == str(tmp_path / name)[:1000]
    assert runs(counter) == 0


@pytest.mark.parametrize("how", ["write_text('other')", "unlink()", "write_text('there and back')"])
async def test_input_that_changes_meanwhile_is_not_kept(
    server: Server, tmp_path: Path, counter: Path, how: str
) -> None:
    (tmp_path / "in").write_text("there and back")
    code = counting(counter, f"import pathlib, time; time.sleep(0.05); pathlib.Path('in').{how}")
    fields = {"workdir": str(tmp_path), "input_files": ["in"]}

    assert (await cached_run(server, code, **fields))["cached"] is False
    (tmp_path / "in").write_text("there and back")
    assert (await cached_run(server, code, **fields))["cached"] is False
    assert runs(counter) == 2


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that takes longer to read than anybody waits, and no place on the disk."""
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(2**36)
    return tmp_path / "endless"


async def test_reading_input_has_the_time_of_its_request(
    server: Server, counter: Path, endless: Path
) -> None:
    body = await refused(
        server, 409, counting(counter), isolated=True, cache=True, input_files=[str(endless)],
        request_timeout=0.2,
    )  # fmt: skip

    assert body["code"] == "QUEUE_TIMEOUT"
    assert runs(counter) == 0


async def test_reading_input_stops_when_its_callers_leave(
    server: Server, counter: Path, tmp_path: Path, endless: Path
) -> None:
    (tmp_path / "small").write_text("x")
    code = counting(counter)
    fields = {"input_files": [str(endless)], "timeout": 3000}
    callers = [asyncio.create_task(cached_run(server, code, **fields)) for _ in range(8)]
    await asyncio.sleep(0.3)
    for caller in callers:
        await leave(caller)

    # It would have to wait for them.
    answer = await cached_run(server, code, input_files=[str(tmp_path / "small")])
    assert (answer["success"], runs(counter)) == (True, 1)


# Equal runs at the same time


def waiting(counter: Path, go: Path, then: str = "1") -> str:
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
    return counting(counter, wait + then)


async def test_ten_equal_runs_are_one(server: Server, counter: Path, tmp_path: Path) -> None:
    before = await statistics(server)
    code = waiting(counter, tmp_path / "go")
    callers = [asyncio.create_task(cached_run(server, code)) for _ in range(10)]

    async def all_wait() -> bool:
        return bool((await statistics(server))["shared"] == before["shared"] + 9)

    await until(all_wait)
    (tmp_path / "go").touch()
    answers = await asyncio.gather(*callers)

    assert runs(counter) == 1
    assert sorted(answer["cached"] for answer in answers) == [False] + [True] * 9
    assert {answer.get("age") for answer in answers} == {None, 0}
    assert len({answer["execution_id"] for answer in answers}) == 1
    after = await statistics(server)
    assert (after["misses"] - before["misses"], after["hits"] - before["hits"]) == (1, 0)
    assert (await cached_run(server, code))["cached"] is True


async def test_all_get_the_answer_of_a_run_that_fails(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    before = (await statistics(server))["shared"]
    code = waiting(counter, tmp_path / "go", "1/0")
    callers = [asyncio.create_task(cached_run(server, code)) for _ in range(3)]

    async def all_wait() -> bool:
        return bool((await statistics(server))["shared"] == before + 2)

    await until(all_wait)
    (tmp_path / "go").touch()
    answers = await asyncio.gather(*callers)

    assert [answer["cached"] for answer in answers] == [False] * 3
    assert {answer["error"]["ename"] for answer in answers} == {"ZeroDivisionError"}
    assert runs(counter) == 1


async def leave(caller: asyncio.Task[Any]) -> None:
    """Hang up."""
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)


async def test_a_caller_that_leaves_does_not_disturb_the_others(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    before = (await statistics(server))["shared"]
    code = waiting(counter, tmp_path / "go", "'whole'")
    leader = asyncio.create_task(cached_run(server, code))
    await until_runs(counter, 1)
    other = asyncio.create_task(cached_run(server, code))

    async def is_shared() -> bool:
        return bool((await statistics(server))["shared"] == before + 1)

    await until(is_shared)
    await leave(leader)
    await asyncio.sleep(0.2)
    (tmp_path / "go").touch()

    answer = await other
    assert (answer["result"], answer["cached"]) == ("'whole'", True)
    assert runs(counter) == 1


async def sessions(server: Server) -> list[str]:
    async with client_of(server) as client:
        response = await client.get("/sessions")
    found = [item["id"] for item in response.json()["sessions"]]
    return [name for name in found if name.startswith("isolated-")]


async def test_a_run_ends_when_all_its_callers_have_left(server: Server, counter: Path) -> None:
    code = counting(counter, "import time; time.sleep(60)")
    callers = [asyncio.create_task(cached_run(server, code, timeout=90)) for _ in range(2)]
    await until_runs(counter, 1)
    for caller in callers:
        assert await sessions(server)
        await leave(caller)

    async def has_ended() -> bool:
        return not await sessions(server)

    await until(has_ended)
    assert runs(counter) == 1


async def test_a_run_that_may_go_on_is_kept_though_nobody_waits(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    before = (await statistics(server))["stores"]
    code = waiting(counter, tmp_path / "go")
    caller = asyncio.create_task(cached_run(server, code, on_disconnect="continue"))
    await until_runs(counter, 1)
    await leave(caller)
    await asyncio.sleep(0.1)
    (tmp_path / "go").touch()

    async def is_kept() -> bool:
        return bool((await statistics(server))["stores"] == before + 1)

    await until(is_kept)
    assert (await cached_run(server, code))["cached"] is True
    assert runs(counter) == 1


# Life, clearing


async def test_a_result_ends_with_its_life(server: Server, counter: Path) -> None:
    code = counting(counter)
    await run(server, code, isolated=True, cache_ttl=0.3)
    await asyncio.sleep(0.4)

    assert (await cached_run(server, code))["cached"] is False
    assert runs(counter) == 2


async def test_a_caller_gets_nothing_older_than_it_wants(server: Server, counter: Path) -> None:
    code = counting(counter)
    await cached_run(server, code)
    await asyncio.sleep(0.3)

    assert (await run(server, code, isolated=True, cache_ttl=1000))["cached"] is True
    assert (await run(server, code, isolated=True, cache_ttl=0.2))["cached"] is False
    assert runs(counter) == 2


async def test_a_run_from_before_a_clearing_is_not_kept(
    server: Server, counter: Path, tmp_path: Path
) -> None:
    code = waiting(counter, tmp_path / "go")
    before = asyncio.create_task(cached_run(server, code))
    await until_runs(counter, 1)
    await clear(server)
    # Nor joined: it began before.
    after = asyncio.create_task(cached_run(server, code))
    await until_runs(counter, 2)
    await clear(server)
    (tmp_path / "go").touch()

    assert [(await before)["cached"], (await after)["cached"]] == [False, False]
    assert (await statistics(server))["count"] == 0
    assert (await cached_run(server, code))["cached"] is False
    assert runs(counter) == 3


@pytest.fixture(scope="module")
def server_without_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("uncached")
    with serving(root, KERNELAGENT_CACHE_ENTRIES="0") as server:
        yield server


async def test_without_a_cache_runs_still_work(server_without_cache: Server, counter: Path) -> None:
    for _ in range(2):
        answer = await cached_run(server_without_cache, counting(counter, "1"))
        assert (answer["cached"], answer["result"]) == (False, "1")

    assert runs(counter) == 2
    await refused(server_without_cache, 400, "1", cache=True)
    facts = await statistics(server_without_cache)
    assert (facts["misses"], facts["stores"], facts["cache"]["max_size"]) == (2, 0, 0)
    async with client_of(server_without_cache) as client:
        assert (await client.get("/health")).json()["features"]["result_cache"] is False


# Routes


async def test_statistics_have_the_shapes_of_published_clients(
    server: Server, counter: Path
) -> None:
    await clear(server)
    for _ in range(2):
        await cached_run(server, counting(counter))
    async with client_of(server) as client:
        overview = (await client.get("/cache")).json()
        root = (await client.get("/")).json()
    facts = await statistics(server)

    inner = facts["cache"]
    assert (inner["size"], inner["max_size"], inner["ttl"]) == (1, 10_000, "3600s")
    assert (inner["ttl_seconds"], inner["max_bytes"]) == (3600, 64 * 2**20)
    assert inner["total_hits"] == facts["hits"] >= 1
    assert facts["count"] == facts["total_cached"] == 1
    assert inner["bytes"] > 1000
    assert facts["size"] == inner["bytes"] / 1e6
    assert 0 < facts["hit_rate"] < 1
    assert facts["hit_rate"] == facts["hits"] / (facts["hits"] + facts["misses"])
    assert facts["timestamp"].endswith("Z")
    for name in ("stores", "evictions", "expired", "shared", "refused"):
        assert isinstance(facts[name], int)
    assert set(overview) == set(root) | set(facts)
    assert overview["endpoints"] == root["endpoints"]


async def test_clearing_tells_what_was_removed(server: Server, counter: Path) -> None:
    await clear(server)
    await cached_run(server, counting(counter))
    held = (await statistics(server))["cache"]["bytes"]

    answer = await clear(server)

    assert answer["success"] is True
    assert answer["entries_removed"] == answer["cleared_entries"] == 1
    assert answer["freed_bytes"] == held
    assert "cleared" in answer["message"]
    assert answer["timestamp"].endswith("Z")
    assert (await clear(server))["entries_removed"] == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"null", b'"x"', b'{"all": true}'])
async def test_clearing_takes_any_body(server: Server, content: bytes) -> None:
    async with client_of(server) as client:
        response = await client.post("/cache/clear", content=content)
    assert response.status_code == 200
