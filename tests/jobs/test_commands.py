"""Commands in the background: real processes, their output, their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.jobs import (
    alive,
    ended,
    follow,
    job,
    kill,
    output,
    pids_in,
    post,
    refused,
    start_command,
)
from tests.runs import client_of
from tests.servers import Server
from tests.waiting import until


async def test_the_answer_is_in_the_shape_of_a_result_too(server: Server) -> None:
    answer = await post(
        server, "/commands/background", command="bash", args=["-c", "sleep 60"], timeout=120
    )

    assert answer["process_id"].startswith("cmd_")
    assert answer["status"] == "running"
    assert answer["command"] == "bash -c sleep 60"
    assert answer["start_time"] == answer["started_at"]
    fields = ("stdout", "stderr", "exit_code", "success", "execution_time")
    assert [answer[name] for name in fields] == ["", "", 0, True, 0.0]
    assert alive(answer["pid"])
    await kill(server, answer["process_id"])
    assert not alive(answer["pid"])


async def test_both_streams_and_the_exit_code(server: Server) -> None:
    job_id = await start_command(server, "echo out; echo err >&2; exit 3", name="three")
    messages = await follow(server, job_id)
    facts = await job(server, job_id)

    assert (output(messages), output(messages, "stderr")) == (b"out\n", b"err\n")
    assert messages[-1]["exit_code"] == 3
    assert (facts["status"], facts["outcome"], facts["exit_code"]) == ("failed", "error", 3)
    assert (facts["kind"], facts["name"]) == ("command", "three")


async def test_a_line_without_arguments_is_for_the_shell(server: Server) -> None:
    answer = await post(server, "/commands/background", command="echo $((6 * 7)) | cat")
    assert output(await follow(server, answer["process_id"])) == b"42\n"


async def test_arguments_reach_the_program_as_they_are(server: Server) -> None:
    args = ["%s|", "a b", "$HOME", "'\"", "*", ""]
    answer = await post(server, "/commands/background", command="printf", args=args)
    assert output(await follow(server, answer["process_id"])) == b"a b|$HOME|'\"|*||"


async def test_directory_and_environment(server: Server) -> None:
    (server.workspace / "there").mkdir(exist_ok=True)
    line = 'pwd; echo "$X"; env | grep -c KERNELAGENT_JWT; true'
    job_id = await start_command(server, line, working_dir="there", env={"X": "'\"\n"})
    expected = f"{server.workspace}/there\n'\"\n\n0\n"
    assert output(await follow(server, job_id)).decode() == expected


async def test_bytes_that_are_no_text_survive(server: Server) -> None:
    job_id = await start_command(server, r"printf 'a\xff\xfe\0b'")
    messages = await follow(server, job_id)
    assert output(messages) == b"a\xff\xfe\0b"
    assert messages[0]["data"] == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\0b"


@pytest.mark.parametrize(
    ("command", "exit_code"), [("/no/such/program", 127), ("/etc/passwd", 126)]
)
async def test_what_cannot_be_started_is_told(server: Server, command: str, exit_code: int) -> None:
    answer = await post(server, "/commands/background", command=command, args=["x"])
    facts = await ended(server, answer["process_id"])
    assert (facts["status"], facts["exit_code"]) == ("failed", exit_code)
    assert command in facts["stderr"]


async def test_a_signal_is_told(server: Server) -> None:
    facts = await ended(server, await start_command(server, "kill -SEGV $$"))
    assert (facts["status"], facts["exit_code"]) == ("failed", 139)
    assert "SIGSEGV" in facts["message"]


async def test_a_time_limit_ends_the_whole_group(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f"sleep 300 & echo $! > {pids}; echo $$ >> {pids}; wait"
    facts = await ended(server, await start_command(server, line, timeout=1))

    assert (facts["status"], facts["outcome"], facts["exit_code"]) == ("failed", "timeout", 124)
    assert not any(map(alive, await pids_in(pids, 2)))


async def test_what_it_started_ends_with_it(server: Server, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = (
        f"sleep 300 & echo $! >> {pids}; setsid sleep 300 & echo $! >> {pids};"
        f" (setsid nohup sh -c 'echo $$ >> {pids}; sleep 300' > /dev/null 2>&1 &);"
        f" while [ $(wc -l < {pids}) -lt 3 ]; do sleep 0.01; done; echo done"
    )
    job_id = await start_command(server, line)
    facts = await ended(server, job_id)

    assert (facts["status"], facts["stdout"]) == ("completed", "done\n")
    found = await pids_in(pids, 3)
    assert len(found) == 3
    assert not any(map(alive, found))


IGNORING = "trap '' TERM INT HUP; "


@pytest.mark.parametrize("shield", ["", IGNORING])
async def test_a_kill_reaches_all_of_it(server: Server, tmp_path: Path, shield: str) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "member"
    script.write_text(f"{shield}echo $$ >> {pids}\nwhile :; do sleep 1; done")
    line = (
        f"{shield}echo $$ >> {pids}; bash {script} & setsid bash {script} &"
        f" env -i setsid bash {script} & wait"
    )
    job_id = await start_command(server, line)
    found = await pids_in(pids, 4)
    assert all(map(alive, found))
    answer = await kill(server, job_id)
    facts = await job(server, job_id)

    assert (answer["status"], answer["success"]) == ("killed", True)
    assert not any(map(alive, found))
    assert (facts["status"], facts["exit_code"]) == ("killed", 137 if shield else 143)
    assert ("did not react" in facts["message"]) == bool(shield)


async def test_a_fork_bomb_of_a_kind_is_ended(server: Server, tmp_path: Path) -> None:
    line = (
        f"for i in $(seq 200); do (sleep 300 & echo $! >> {tmp_path}/pids) & done; wait; sleep 300"
    )
    job_id = await start_command(server, line)
    found = await pids_in(tmp_path / "pids", 200)
    await kill(server, job_id)
    assert not any(map(alive, found))


async def test_a_flood_is_bounded_and_counted(server: Server) -> None:
    total = 200 * 2**20
    job_id = await start_command(server, f"yes | head -c {total}; echo end >&2")
    facts = await ended(server, job_id)
    messages = await follow(server, job_id)

    assert facts["log"]["stdout_bytes"] == total
    kept = len(output(messages)) + len(output(messages, "stderr"))
    assert facts["log"]["cut_bytes"] == facts["log"]["bytes"] - kept
    assert output(messages, "stderr") == b"end\n"
    assert sum(message["type"] == "gap" for message in messages) == 1
    folder = server.state / "jobs" / job_id
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 16 * 2**20


async def test_all_spellings_of_kill(server: Server) -> None:
    for method, path, body in (
        ("POST", "/execute/kill/{id}", None),
        ("POST", "/processes/{id}/kill", None),
        ("DELETE", "/execute/kill?process_id={id}", None),
        ("DELETE", "/execute/kill", {"process_id": "{id}"}),
        ("POST", "/execute/kill", {"process_id": "{id}"}),
        ("POST", "/jobs/{id}/kill", None),
        ("POST", "/execute/kill/{pid}", None),
        ("DELETE", "/execute/kill", {"process_id": "{pid}"}),
    ):
        answer = await post(server, "/commands/background", command="sleep 60")
        names = {"id": answer["process_id"], "pid": answer["pid"]}
        sent: dict[str, str | int] | None = None
        if body is not None:
            # As a number, where it is one.
            name = body["process_id"].strip("{}")
            sent = {"process_id": names[name]}
        async with client_of(server) as client:
            for _ in range(2):
                response = await client.request(method, path.format(**names), json=sent)
                assert response.status_code == 200, response.text
                assert response.json()["process_id"] == answer["process_id"]
                assert response.json()["status"] == "killed"
        assert not alive(answer["pid"])


async def test_bad_kills_are_refused(server: Server) -> None:
    async with client_of(server) as client:
        for method in ("POST", "DELETE"):
            for content in (b"", b"{}", b"[]", b'{"process_id": null}', b'{"process_id": {}}'):
                response = await client.request(method, "/execute/kill", content=content)
                await refused(response, 400, "MISSING_PARAMETER")
            response = await client.request(method, "/execute/kill", content=b"{")
            await refused(response, 400, "INVALID_JSON")
        for path in (
            "/execute/kill/proc_x",
            "/processes/1/kill",
            "/execute/kill/%00",
            "/jobs/1/kill",
        ):
            await refused(await client.post(path), 404, "PROCESS_NOT_FOUND")


async def test_bad_commands_are_refused(server: Server) -> None:
    async with client_of(server) as client:
        for body, code in (
            ({}, "MISSING_PARAMETER"),
            ({"command": ""}, "INVALID_REQUEST"),
            ({"command": "a\0b"}, "INVALID_REQUEST"),
            ({"command": "a", "args": ["\0"]}, "INVALID_REQUEST"),
            ({"command": "a", "args": "b"}, "INVALID_REQUEST"),
            ({"command": "a", "workdir": "/no/such"}, "DIRECTORY_NOT_FOUND"),
        ):
            await refused(await client.post("/commands/background", json=body), 400, code)


async def test_one_that_is_killed_from_outside_was_killed(server: Server) -> None:
    answer = await post(server, "/commands/background", command="exec sleep 60")
    await ended(server, await start_command(server, f"kill -9 {answer['pid']}"))

    async def has_ended() -> bool:
        return bool((await job(server, answer["process_id"]))["status"] != "running")

    await until(has_ended)
    facts = await job(server, answer["process_id"])
    assert (facts["status"], facts["exit_code"]) == ("killed", 137)


async def test_usage_of_a_short_one_is_known(server: Server) -> None:
    work = "x = bytearray(180_000_000); t = time.process_time() + 0.3"
    line = f"python3 -c 'import time; {work}\nwhile time.process_time() < t: pass'"
    facts = await ended(server, await start_command(server, line))
    assert facts["cpu_seconds"] >= 0.3
    assert facts["peak_memory_bytes"] > 180_000_000
    # Not the service's own memory, which a child begins with.
    small = await ended(server, await start_command(server, "true"))
    assert small["peak_memory_bytes"] < 20_000_000
