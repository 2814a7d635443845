"""What happens to much output: order, budgets, files that keep the rest, late output."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.runs import run, session
from tests.servers import Server
from tests.waiting import until

TEN_MEGABYTES = 10_000_000

# Every line differs, so that a lost or doubled piece shows.
FLOOD = """
import sys
written = 0
number = 0
while written < 10_000_000:
    line = f'{number:09d} ' + 'x' * 89 + '\\n'
    sys.stdout.write(line)
    written += len(line)
    number += 1
"""


def flood_text() -> str:
    return "".join(f"{number:09d} {'x' * 89}\n" for number in range(TEN_MEGABYTES // 100))


def rest_of(server: Server, answer: dict[str, Any], name: str) -> str:
    """What the file `name` of this run's excess output holds."""
    (file,) = [file for file in answer["truncation"]["files"] if file["path"].endswith(f"/{name}")]
    text: str = (server.workspace / file["path"]).read_text()
    assert len(text.encode()) == file["bytes"]
    return text


async def test_ten_thousand_prints_come_in_order(server: Server) -> None:
    answer = await run(server, "for n in range(10_000): print(n)")

    assert answer["stdout"] == "".join(f"{n}\n" for n in range(10_000))


async def test_flushed_prints_come_in_order_too(server: Server) -> None:
    answer = await run(server, "for n in range(3000): print(n, end=' ', flush=True)")

    assert answer["stdout"] == "".join(f"{n} " for n in range(3000))


async def test_ten_megabytes_arrive_whole_if_the_budget_is_raised(server: Server) -> None:
    answer = await run(server, FLOOD, max_output_bytes=20_000_000)

    assert answer["stdout"] == flood_text()
    assert answer["truncated"] is False
    assert answer["truncation"]["stdout_bytes"] == TEN_MEGABYTES


async def test_ten_megabytes_are_cut_with_a_true_count_and_a_file_with_the_rest(
    server: Server,
) -> None:
    answer = await run(server, FLOOD)

    facts = answer["truncation"]
    assert answer["truncated"] is True
    assert answer["success"] is True
    assert facts["total_bytes"] == facts["stdout_bytes"] == TEN_MEGABYTES
    assert facts["lost_bytes"] == 0
    head, marker, _ = answer["stdout"].rpartition("\n[kernelagent: ")
    assert marker
    assert len(head) == facts["kept_bytes"]
    rest = rest_of(server, answer, "stdout.txt")
    assert head + rest == flood_text()
    assert facts["files"][0]["path"] in answer["stdout"]


async def test_cut_never_splits_a_character(server: Server) -> None:
    answer = await run(server, "print('ä€🎉' * 1000, end='')", max_output_bytes=1024)

    head, _, _ = answer["stdout"].rpartition("\n[kernelagent: ")
    assert "\ufffd" not in head
    assert head + rest_of(server, answer, "stdout.txt") == "ä€🎉" * 1000
    assert answer["truncation"]["stdout_bytes"] == 9000


async def test_error_is_told_although_the_budget_is_used_up(server: Server) -> None:
    answer = await run(server, "print('x' * 100_000)\n1 / 0", max_output_bytes=1024)

    assert answer["outcome"] == "error"
    assert answer["stderr"].endswith("ZeroDivisionError: division by zero\n")


async def test_stdout_and_stderr_are_kept_in_files_of_their_own(server: Server) -> None:
    code = "import sys\nprint('o' * 5000, end='')\nsys.stderr.write('e' * 5000)"

    answer = await run(server, code, max_output_bytes=1024)

    kept = answer["stdout"].partition("\n[kernelagent: ")[0]
    assert kept + rest_of(server, answer, "stdout.txt") == "o" * 5000
    assert rest_of(server, answer, "stderr.txt") == "e" * 5000
    assert answer["truncation"]["stdout_bytes"] == 5000
    assert answer["truncation"]["stderr_bytes"] == 5000


async def test_picture_over_the_budget_is_in_a_file_that_the_answer_names(server: Server) -> None:
    code = """
from IPython.display import HTML, display
display(HTML('<p>' + 'x' * 5000 + '</p>'))
display(HTML('small'))
"""
    answer = await run(server, code, max_output_bytes=1024, path="/execute/rich")

    large, small = answer["outputs"]
    assert "over the output budget" in large["data"]["text/plain"]
    (spilled,) = [
        item for item in large["metadata"]["kernelagent"]["spilled"] if item["mime"] == "text/html"
    ]
    assert (server.workspace / spilled["path"]).read_text() == f"<p>{'x' * 5000}</p>"
    assert small["data"]["text/html"] == "small"
    assert answer["truncated"] is True


@pytest.mark.parametrize("wanted", [10**15, 2**62])
async def test_larger_budget_than_allowed_is_lowered(server: Server, wanted: int) -> None:
    answer = await run(server, "print('x')", max_output_bytes=wanted)

    assert answer["stdout"] == "x\n"


async def test_huge_traceback_is_shortened(server: Server) -> None:
    answer = await run(server, "raise ValueError('x' * 3_000_000)")

    assert answer["error"]["ename"] == "ValueError"
    assert len(answer["stderr"]) < 1_000_000


async def test_large_code_runs(server: Server) -> None:
    answer = await run(server, f"text = '{'x' * 2_000_000}'\nlen(text)")

    assert answer["result"] == "2000000"


async def test_output_of_a_thread_after_its_run_comes_late_with_the_next_one(
    server: Server, tmp_path: Path
) -> None:
    code = """
import pathlib, threading, time
def later():
    while not pathlib.Path('go').exists(): time.sleep(0.01)
    print('late')
    pathlib.Path('said').touch()
threading.Thread(target=later, daemon=True).start()
"""
    code = code.replace("'go'", repr(str(tmp_path / "go")))
    code = code.replace("'said'", repr(str(tmp_path / "said")))

    async def has_been_said() -> bool:
        return (tmp_path / "said").exists()

    async with session(server) as session_id:
        first = await run(server, code, session_id=session_id)
        (tmp_path / "go").touch()
        await until(has_been_said)
        late: list[Any] = []

        async def has_come() -> bool:
            answer = await run(server, "print('own')", session_id=session_id)
            assert answer["stdout"] == "own\n"
            late.extend(answer["late_outputs"])
            return bool(late)

        await until(has_come)
        after = await run(server, "print('own')", session_id=session_id)

    assert first["stdout"] == ""
    assert late == [{"output_type": "stream", "name": "stdout", "text": "late\n"}]
    assert after["late_outputs"] == []


async def test_flood_in_one_session_does_not_hold_up_another(server: Server) -> None:
    flood = (
        "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: print('x' * 80)"
    )
    async with session(server) as noisy, session(server) as quiet:
        flooding = asyncio.create_task(
            run(server, flood, session_id=noisy, on_disconnect="interrupt", timeout=40)
        )
        for number in range(20):
            answer = await run(server, str(number), session_id=quiet)
            assert answer["result"] == str(number)

        assert not flooding.done()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
