"""Runs that are stopped by a time limit, wait for input, or wait for each other."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server

# Time limits and interrupts


async def test_timeout_is_an_answer_with_what_was_printed(server: Server) -> None:
    await run(server, "survives = 1")

    answer = await run(server, "import time\nprint('part')\ntime.sleep(60)", timeout=0.5)

    assert answer["success"] is False
    assert answer["outcome"] == "timeout"
    assert answer["exit_code"] == 124
    assert answer["timed_out"] is True
    assert answer["code"] == "EXECUTION_TIMEOUT"
    assert answer["stdout"] == "part\n"
    assert "time limit of 0.5 s" in answer["stderr"]
    assert answer["message"] in answer["stderr"]
    assert answer["state_lost"] is False
    assert answer["execution_time"] >= 0.5
    assert (await run(server, "survives"))["result"] == "1"


async def test_code_that_ignores_interrupts_is_killed_and_says_so(server: Server) -> None:
    code = "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except BaseException: 0"
    async with session(server) as session_id:
        answer = await run(server, code, session_id=session_id, timeout=0.3)
        after = await run(server, "1 + 1", session_id=session_id)

    assert answer["outcome"] == "timeout"
    assert answer["exit_code"] == 124
    assert answer["state_lost"] is True
    assert "killed" in answer["stderr"]
    assert after["result"] == "2"


async def test_request_timeout_counts_the_queue_too(server: Server) -> None:
    async with session(server) as session_id:
        first = asyncio.create_task(
            run(server, "import time; time.sleep(0.5)", session_id=session_id)
        )
        await until_busy(server, session_id)

        answer = await run(
            server,
            "time.sleep(60)",
            session_id=session_id,
            timeout=60,
            request_timeout=2.0,
        )
        await first

    assert answer["outcome"] == "timeout"
    # What the queue took is not there for the run.
    limit = re.search(r"time limit of ([\d.]+) s", answer["message"])
    assert limit is not None
    assert 0 < float(limit[1]) <= 2.0 - answer["queue_time"] + 0.001
    assert answer["queue_time"] + answer["execution_time"] >= 1.99


async def test_input_fails_at_once_with_a_clear_message(server: Server) -> None:
    answer = await run(server, "print('ask')\nname = input('name? ')", timeout=20)

    assert answer["outcome"] == "error"
    assert answer["error"]["ename"] == "StdinNotImplementedError"
    assert "Run it as a stream" in answer["stderr"]
    assert answer["stdout"] == "ask\n"


async def test_getpass_fails_at_once_too(server: Server) -> None:
    answer = await run(server, "import getpass; getpass.getpass()", timeout=20)

    assert answer["error"]["ename"] == "StdinNotImplementedError"


# Order


async def test_fifty_runs_queued_at_once_come_back_in_order(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        first = asyncio.create_task(
            run(
                server,
                "import pathlib, time\nseen = []\nwhile not pathlib.Path('go').exists():"
                " time.sleep(0.01)\npathlib.Path('go').unlink()",
                session_id=session_id,
            )
        )
        await until_busy(server, session_id)

        async def queue(number: int) -> dict[str, Any]:
            body = {"code": f"seen.append({number}); {number}", "session_id": session_id}
            answer: dict[str, Any] = (await client.post("/execute", json=body)).json()
            return answer

        queued = []
        for number in range(50):
            queued.append(asyncio.create_task(queue(number)))
            await until_busy(server, session_id, queued=number + 1)
        (server.workspace / "go").touch()
        _, *answers = await asyncio.gather(first, *queued)
        seen = (await run(server, "seen", session_id=session_id))["result"]

    assert json.loads(seen) == list(range(50))
    assert [answer["result"] for answer in answers] == [str(number) for number in range(50)]
    assert [answer["execution_count"] for answer in answers] == list(range(2, 52))
    moments = [answer["timestamp"] for answer in answers]
    assert moments == sorted(moments)


async def test_two_sessions_run_at_the_same_time(server: Server, tmp_path: Path) -> None:
    meet = (
        "import pathlib, time\n"
        "pathlib.Path({mine!r}).touch()\n"
        "while not pathlib.Path({other!r}).exists(): time.sleep(0.01)"
    )
    async with session(server) as one, session(server) as two:
        options: dict[str, Any] = {"workdir": str(tmp_path), "timeout": 30}
        answers = await asyncio.gather(
            run(server, meet.format(mine="a", other="b"), session_id=one, **options),
            run(server, meet.format(mine="b", other="a"), session_id=two, **options),
        )

    assert [answer["outcome"] for answer in answers] == ["ok", "ok"]


async def test_transcript_names_runs_but_not_their_code(server: Server) -> None:
    async with session(server) as session_id:
        answer = await run(server, "secret = 'x'; 1 / 0", session_id=session_id)

        facts = await session_facts(server, session_id)

    (entry,) = facts["transcript"]
    assert entry["execution_id"] == answer["execution_id"]
    assert entry["outcome"] == "error"
    assert entry["execution_count"] == 1
    assert "secret" not in json.dumps(facts)
