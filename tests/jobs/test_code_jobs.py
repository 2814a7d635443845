"""Code in the background, on real kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.jobs.jobs import (
    alive,
    ended,
    follow,
    get,
    job,
    kill,
    output,
    pids_in,
    post,
    refused,
    start,
)
from tests.runs import client_of, run
from tests.servers import Server, Service
from tests.waiting import until

PROGRAMS = {
    "python": ("import os; print('hi', os.environ['X'])", "hi 1\n"),
    "javascript": ("console.log('hi', process.env.X)", "hi 1\n"),
    "typescript": ("const x: string = process.env.X!; console.log('hi', x)", "hi 1\n"),
    "bash": ('echo hi "$X"', "hi 1\n"),
    "go": ('import "os"\nfmt.Println("hi", os.Getenv("X"))', "hi 1\n"),
}


@pytest.mark.parametrize("language", PROGRAMS)
async def test_every_language_runs_in_the_background(server: Server, language: str) -> None:
    code, expected = PROGRAMS[language]
    job_id = await start(server, code, language=language, env={"X": "1"}, timeout=60)
    messages = await follow(server, job_id)
    facts = await job(server, job_id)

    assert output(messages).decode() == expected
    assert output(messages, "stderr") == b""
    assert messages[-1]["type"] == "end"
    assert (facts["status"], facts["outcome"], facts["exit_code"]) == ("completed", "ok", 0)
    assert facts["language"] == language
    assert language in facts["name"]
    assert facts["stdout"] == expected
    assert facts["log"]["stdout_bytes"] == len(expected)


async def test_the_answer_has_what_clients_read(server: Server) -> None:
    answer = await post(server, "/execute/background", code="1", name="mine", env=None)

    assert answer["process_id"].startswith("proc_")
    assert answer["execution_id"].startswith("exec_")
    assert answer["status"] == "running"
    assert answer["name"] == "mine"
    assert answer["start_time"].endswith("Z")
    assert answer["message"]
    await ended(server, answer["process_id"])


async def test_figures_and_tables_are_kept(server: Server) -> None:
    code = (
        "import matplotlib.pyplot as plt, pandas as pd\n"
        "for n in range(3):\n    plt.figure(); plt.plot([n, 1]); plt.show()\n"
        "print('text')\n"
        "pd.DataFrame({'a': [1]})"
    )
    job_id = await start(server, code)
    facts = await ended(server, job_id)
    outputs = await get(server, f"/jobs/{job_id}/outputs")

    kinds = [item["type"] for item in outputs["rich_outputs"]]
    assert kinds == ["image/png"] * 3 + ["text/html"]
    assert outputs["complete"] is True
    assert outputs["success"] is True
    assert outputs["stdout"] == "text\n"
    assert outputs["execution_id"] == facts["execution_id"]
    assert outputs["dataframe"]["columns"]
    assert [output["output_type"] for output in outputs["outputs"]][-1] == "execute_result"


async def test_outputs_can_be_seen_while_it_runs(server: Server, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    code = (
        "import pathlib, time\nfrom IPython.display import display, HTML\n"
        "display(HTML('<b>first</b>'))\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.02)\n"
        "display(HTML('<b>second</b>'))"
    )
    job_id = await start(server, code)

    async def first_is_shown() -> bool:
        shown = await get(server, f"/jobs/{job_id}/outputs")
        assert shown["complete"] is False
        data = [item["data"] for item in shown["rich_outputs"]]
        return data == ["<b>first</b>"]

    await until(first_is_shown)
    go_on.touch()
    await ended(server, job_id)
    shown = await get(server, f"/jobs/{job_id}/outputs")
    assert [item["data"] for item in shown["rich_outputs"]] == ["<b>first</b>", "<b>second</b>"]


async def test_its_kernel_is_its_own(server: Server) -> None:
    await run(server, "only_here = 1")
    job_id = await start(server, "only_here")
    facts = await ended(server, job_id)

    assert (facts["status"], facts["exit_code"]) == ("failed", 1)
    assert "NameError" in facts["stderr"]
    assert not alive(facts["pid"])


async def test_its_pid_is_real(server: Server, tmp_path: Path) -> None:
    code = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    facts = await ended(server, await start(server, code))
    assert (tmp_path / "pid").read_text() == str(facts["pid"])


async def test_directory_and_environment(server: Server) -> None:
    (server.workspace / "below").mkdir(exist_ok=True)
    code = "import os; print(os.getcwd(), os.environ['X'])"
    job_id = await start(server, code, workdir="below", env={"X": "'\"$\n"})
    assert output(await follow(server, job_id)).decode() == f"{server.workspace}/below '\"$\n\n"


async def test_a_time_limit_is_kept(server: Server) -> None:
    job_id = await start(server, "print('on')\nimport time; time.sleep(60)", timeout=0.5)
    facts = await ended(server, job_id)

    assert (facts["status"], facts["outcome"], facts["exit_code"]) == ("failed", "timeout", 124)
    assert facts["stdout"] == "on\n"
    assert "time limit" in facts["stderr"]
    # It has no session that anybody could go on with.
    assert "state" not in facts["message"]


async def test_text_beyond_the_answer_is_in_the_log(server_with_little: Service) -> None:
    # More than the output budget of a run, less than the bound of a log.
    server = server_with_little
    code = "for n in range(200_000): print(f'{n:09d}')"
    job_id = await start(server, code)
    messages = await follow(server, job_id)
    facts = await job(server, job_id)

    assert output(messages) == b"".join(b"%09d\n" % n for n in range(200_000))
    assert facts["log"] == {
        "bytes": 2_000_000,
        "stdout_bytes": 2_000_000,
        "stderr_bytes": 0,
        "cut_bytes": 0,
        "error": "",
    }


async def test_usage_is_told(server: Server, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    code = (
        "import pathlib, time\nkept = bytearray(100_000_000)\n"
        "until = time.process_time() + 0.3\n"
        "while time.process_time() < until: pass\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.02)"
    )
    job_id = await start(server, code)

    async def is_seen() -> bool:
        processes = (await get(server, "/execute/processes"))["processes"]
        (mine,) = [item for item in processes if item["process_id"] == job_id]
        return bool(mine["cpu_percent"] > 0 and mine["memory_percent"] > 0)

    await until(is_seen)
    go_on.touch()
    facts = await ended(server, job_id)
    assert facts["cpu_seconds"] >= 0.25
    assert facts["peak_memory_bytes"] > 100_000_000


async def test_bad_requests_leave_no_job(server: Server) -> None:
    before = (await get(server, "/execute/processes"))["count"]
    async with client_of(server) as client:
        for body, code in (
            ({}, "MISSING_PARAMETER"),
            ({"code": "1", "language": "cobol"}, "INVALID_REQUEST"),
            ({"code": "1", "language": "algol"}, "LANGUAGE_NOT_AVAILABLE"),
            ({"code": "1", "workdir": "/no/such"}, "DIRECTORY_NOT_FOUND"),
            ({"code": "1", "timeout": -1}, "INVALID_REQUEST"),
            ({"code": "1", "env": {"a=b": "1"}}, "INVALID_REQUEST"),
        ):
            response = await client.post("/execute/background", json=body)
            await refused(response, 400, code)
    assert (await get(server, "/execute/processes"))["count"] == before


async def test_unknown_fields_are_accepted(server: Server) -> None:
    job_id = await start(server, "1", capture_rich=True, cwd=None)
    assert (await ended(server, job_id))["status"] == "completed"


async def test_the_list_has_no_nulls_and_every_spelling(server: Server) -> None:
    await ended(server, await start(server, "print(1)"))
    running = await start(server, "import time; time.sleep(60)")
    processes = await get(server, "/execute/processes")
    await kill(server, running)

    assert processes["count"] == len(processes["processes"])
    assert processes["timestamp"].endswith("Z")
    names = set(processes["processes"][-1])
    for item in processes["processes"]:
        present = {name: value for name, value in item.items() if value is not None}
        assert names - {"end_time", "completed_at"} <= set(present)
        assert isinstance(item["pid"], int)
        assert item["start_time"] == item["started_at"]
        assert item["duration"] == item["execution_time"]


async def test_a_repeat_with_the_same_key_is_the_same_job(server: Server, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"
    async with client_of(server, **{"Idempotency-Key": "one"}) as client:
        first, second = [
            (await client.post("/execute/background", json={"code": code})).json() for _ in range(2)
        ]
        await ended(server, first["process_id"])
        third = (await client.post("/execute/background", json={"code": code})).json()
        other = await client.post("/execute/background", json={"code": "2"})
    await refused(other, 409, "IDEMPOTENCY_CONFLICT")
    assert first["process_id"] == second["process_id"] == third["process_id"]
    assert (tmp_path / "runs").read_text() == "x"


async def test_another_callback_is_another_request(server: Server) -> None:
    async with client_of(server, **{"Idempotency-Key": "callback"}) as client:
        for path, status in (("a", 200), ("a", 200), ("b", 409)):
            body = {"code": "1", "callback_url": f"https://192.0.2.1.example/{path}"}
            response = await client.post("/execute/async", json=body)
            assert response.status_code == status, response.text


async def test_a_kernel_that_dies_is_told(server: Server) -> None:
    job_id = await start(server, "print('last', flush=True)\nimport os; os.abort()")
    facts = await ended(server, job_id)

    assert (facts["status"], facts["outcome"], facts["exit_code"]) == ("failed", "kernel_died", 134)
    assert facts["stdout"] == "last\n"


async def test_one_that_is_killed_from_outside_was_killed(server: Server, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job_id = await start(server, "import time; time.sleep(60)")

    async def has_a_pid() -> bool:
        return bool((await job(server, job_id))["pid"])

    await until(has_a_pid)
    pid = (await job(server, job_id))["pid"]
    # As a published command line does it.
    await run(server, f"kill {pid}", language="bash")
    facts = await ended(server, job_id)
    assert (facts["status"], facts["exit_code"]) == ("killed", 143)
    assert not pid_file.exists()


async def test_every_route_has_the_same_job(server: Server) -> None:
    answer = await post(server, "/execute/background", code="print(1)")
    first = await ended(server, answer["process_id"])
    for name in (answer["execution_id"], str(first["pid"])):
        assert (await job(server, name))["id"] == answer["process_id"]
    listed = await get(server, "/jobs", limit=1000, status="completed")
    assert answer["process_id"] in [item["id"] for item in listed["jobs"]]
    assert {item["status"] for item in listed["jobs"]} == {"completed"}


async def test_a_deleted_job_is_gone(server: Server) -> None:
    job_id = await start(server, "import time; time.sleep(60)")
    async with client_of(server) as client:
        deleted: Any = await client.delete(f"/jobs/{job_id}")
        assert deleted.status_code == 200
        assert deleted.json()["status"] == "killed"
        for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/logs", f"/jobs/{job_id}/outputs"):
            await refused(await client.get(path), 404, "PROCESS_NOT_FOUND")
        await refused(await client.delete(f"/jobs/{job_id}"), 404, "PROCESS_NOT_FOUND")
    state = server.state / "jobs" / job_id
    assert not state.exists()


async def test_a_kill_ends_what_the_code_has_started(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, time\n"
        "shield = \"trap '' TERM INT HUP; while :; do sleep 1; done\"\n"
        "children = [subprocess.Popen(['bash', '-c', shield]),\n"
        "            subprocess.Popen(['setsid', 'bash', '-c', shield])]\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} '\n"
        "    + ' '.join(str(child.pid) for child in children))\n"
        "while True: time.sleep(1)"
    )
    job_id = await start(server, code)
    found = await pids_in(pids, 3)
    answer = await kill(server, job_id)
    facts = await job(server, job_id)

    assert answer["status"] == facts["status"] == "killed"
    assert "did not react" in facts["message"]
    assert not any(map(alive, found))
