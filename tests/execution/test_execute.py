"""POST /execute on real kernels: what a run gets, what it leaves, how it ends."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.runs import client_of, run, session, session_facts, until_busy
from tests.servers import Server

ANSI = "\x1b["


async def test_answer_has_every_field_of_the_contract(server: Server) -> None:
    answer = await run(server, "print('hello')\n6 * 7")

    assert answer["success"] is True
    assert answer["outcome"] == "ok"
    assert answer["exit_code"] == 0
    assert answer["stdout"] == "hello\n"
    assert answer["stderr"] == ""
    assert answer["result"] == "42"
    assert answer["language"] == "python"
    assert answer["session_id"] == "default-python"
    assert answer["execution_id"].startswith("exec_")
    assert isinstance(answer["execution_count"], int)
    assert isinstance(answer["execution_time"], float)
    assert isinstance(answer["queue_time"], float)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", answer["timestamp"])
    assert answer["state_lost"] is False
    assert answer["truncated"] is False
    assert answer["truncation"]["stdout_bytes"] == 6
    assert answer["rich_outputs"] == []
    assert answer["late_outputs"] == []
    assert answer["notes"] == []


async def test_nothing_that_clients_read_is_null(server: Server) -> None:
    answer = await run(server, "pass")

    assert [name for name, value in answer.items() if value is None] == []


async def test_rich_answer_has_all_outputs_in_nbformat_shape(server: Server) -> None:
    answer = await run(server, "print('a')\nprint('b')\n1", path="/execute/rich")

    stream, result = answer["outputs"]
    assert stream == {"output_type": "stream", "name": "stdout", "text": "a\nb\n"}
    assert result["output_type"] == "execute_result"
    assert result["data"] == {"text/plain": "1"}
    assert result["execution_count"] == answer["execution_count"]
    assert answer["display_updates"] == []


async def test_ipython_route_is_always_python(server: Server) -> None:
    answer = await run(server, "1 + 1", path="/execute/ipython", language="go")

    assert answer["language"] == "python"
    assert answer["result"] == "2"


@pytest.mark.parametrize("name", ["python", "python3", "py", "ipython", "Python", "PY", ""])
async def test_python_has_these_names(server: Server, name: str) -> None:
    answer = await run(server, "1", language=name)

    assert answer["language"] == "python"


async def test_nulls_mean_absent(server: Server) -> None:
    fields = (
        "language session_id isolated timeout queue_timeout request_timeout workdir working_dir "
        "cwd env max_output_bytes on_disconnect stdin cache cache_ttl input_files"
    )
    nulls: dict[str, Any] = dict.fromkeys(fields.split())

    answer = await run(server, "1 + 1", **nulls)

    assert answer["result"] == "2"


async def test_unknown_fields_are_accepted(server: Server) -> None:
    answer = await run(server, "1 + 1", rich=True, capture_rich=True, anything={"a": [1]})

    assert answer["result"] == "2"


async def test_larger_timeout_than_allowed_is_lowered(server: Server) -> None:
    answer = await run(server, "1 + 1", timeout=10**12)

    assert answer["result"] == "2"


# State


async def test_state_persists_between_calls(server: Server) -> None:
    await run(server, "import math\nkept = [math.pi]")

    assert (await run(server, "round(kept[0], 2)"))["result"] == "3.14"


async def test_all_routes_share_the_default_session(server: Server) -> None:
    await run(server, "shared = 5", path="/execute/ipython")

    assert (await run(server, "shared", path="/execute/rich"))["result"] == "5"
    assert (await run(server, "shared", session_id="default"))["result"] == "5"
    assert (await run(server, "shared", session_id="default-python"))["result"] == "5"


async def test_execution_count_grows_by_one(server: Server) -> None:
    async with session(server) as session_id:
        first = await run(server, "1", session_id=session_id)
        second = await run(server, "_ + 1", session_id=session_id)

    assert second["execution_count"] == first["execution_count"] + 1
    assert second["result"] == "2"


async def test_isolated_run_sees_no_session_and_leaves_none(server: Server) -> None:
    await run(server, "outside = 1")

    answer = await run(server, "inside = 1\n'outside' in dir()", isolated=True)

    assert answer["result"] == "False"
    assert answer["session_id"].startswith("isolated-")
    assert (await run(server, "'inside' in dir()"))["result"] == "False"
    async with client_of(server) as client:
        assert (await client.get(f"/sessions/{answer['session_id']}")).status_code == 404


# Failing code


async def test_exception_is_an_answer_with_its_traceback(server: Server) -> None:
    answer = await run(server, "print('before')\ndef f():\n    return 1 / 0\nf()\nprint('after')")

    assert answer["success"] is False
    assert answer["outcome"] == "error"
    assert answer["exit_code"] == 1
    assert answer["stdout"] == "before\n"
    assert answer["stderr"].startswith("---")
    assert answer["stderr"].endswith("ZeroDivisionError: division by zero\n")
    assert "return 1 / 0" in answer["stderr"]
    assert answer["error"]["ename"] == "ZeroDivisionError"
    assert answer["error"]["evalue"] == "division by zero"
    assert answer["state_lost"] is False


async def test_text_of_a_traceback_has_no_terminal_colours(server: Server) -> None:
    answer = await run(server, "raise ValueError('no')")

    assert ANSI not in answer["stderr"]
    assert any(ANSI in line for line in answer["error"]["traceback"])


async def test_what_code_prints_is_left_as_it_is(server: Server) -> None:
    answer = await run(server, "import sys\nprint('\\x1b[31mred\\x1b[0m')\nsys.stderr.write('err')")

    assert answer["stdout"] == "\x1b[31mred\x1b[0m\n"
    assert answer["stderr"] == "err"


async def test_syntax_error_is_an_answer(server: Server) -> None:
    answer = await run(server, "def (:")

    assert answer["outcome"] == "error"
    assert answer["error"]["ename"] == "SyntaxError"
    assert "SyntaxError" in answer["stderr"]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit(300)", 44),
        ("import sys; sys.exit('gone')", 1),
        ("exit(2)", 2),
        ("quit(2)\nhere = 2", 2),
    ],
)
async def test_exit_gives_its_code_and_keeps_the_session(
    server: Server, code: str, exit_code: int
) -> None:
    async with session(server) as session_id:
        await run(server, "here = 1", session_id=session_id)

        answer = await run(server, code, session_id=session_id)

        assert answer["exit_code"] == exit_code
        assert answer["success"] is False
        assert answer["outcome"] == "error"
        assert answer["state_lost"] is False
        assert (await run(server, "here", session_id=session_id))["result"] == "1"


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "raise SystemExit", "exit()"])
async def test_exit_without_a_code_is_a_success(server: Server, code: str) -> None:
    async with session(server) as session_id:
        answer = await run(server, code, session_id=session_id)

    assert answer["exit_code"] == 0
    assert answer["success"] is True
    assert answer["outcome"] == "ok"


# Directory


@pytest.mark.parametrize("name", ["workdir", "working_dir", "cwd"])
async def test_directory_has_three_spellings(server: Server, tmp_path: Path, name: str) -> None:
    answer = await run(server, "import os; print(os.getcwd())", **{name: str(tmp_path)})

    assert answer["stdout"] == f"{tmp_path}\n"


async def test_spelling_that_is_null_leaves_room_for_another(
    server: Server, tmp_path: Path
) -> None:
    answer = await run(server, "import os; print(os.getcwd())", workdir=None, cwd=str(tmp_path))

    assert answer["stdout"] == f"{tmp_path}\n"


async def test_directory_holds_for_one_run(server: Server, tmp_path: Path) -> None:
    before = await run(server, "import os; print(os.getcwd())")
    await run(server, "open('here.txt', 'w').close()", workdir=str(tmp_path))
    after = await run(server, "print(os.getcwd())")

    assert (tmp_path / "here.txt").exists()
    assert before["stdout"] == after["stdout"] == f"{server.workspace}\n"


async def test_directory_is_restored_after_chdir_and_error(server: Server, tmp_path: Path) -> None:
    await run(server, "import os; os.chdir('/'); raise ValueError", workdir=str(tmp_path))

    assert (await run(server, "print(os.getcwd())"))["stdout"] == f"{server.workspace}\n"


async def test_chdir_of_the_code_itself_stays(server: Server, tmp_path: Path) -> None:
    async with session(server) as session_id:
        await run(server, f"import os; os.chdir({str(tmp_path)!r})", session_id=session_id)

        answer = await run(server, "print(os.getcwd())", session_id=session_id)

    assert answer["stdout"] == f"{tmp_path}\n"


async def test_relative_directory_starts_at_the_workspace(server: Server) -> None:
    (server.workspace / "sub" / "dir").mkdir(parents=True, exist_ok=True)

    answer = await run(server, "import os; print(os.getcwd())", workdir="sub/dir")

    assert answer["stdout"] == f"{server.workspace}/sub/dir\n"


async def test_empty_directory_is_the_kernels_own(server: Server) -> None:
    answer = await run(server, "import os; print(os.getcwd())", workdir="")

    assert answer["stdout"] == f"{server.workspace}\n"


# Environment

WEIRD = {
    "QUOTES": 'it\'s "quoted" `twice` \'\'\'x\'\'\' """y"""',
    "LINES": "one\ntwo\r\nthree\n",
    "DOLLARS": "$HOME ${PATH} $(id) %PATH% {x} {{y}}",
    "BACKSLASH": "\\n \\ \\\\ \\x41 \\u0041",
    "UNICODE": "äöü 中文 🎉 \u2028 \u0085 \ufeff",
    "EMPTY": "",
    "SPACES": "  leading and trailing  ",
    "CONTROL": "\x01\x07\x1b[0m\x7f",
    "weird-name.with:chars": "1",
}


async def test_environment_arrives_byte_for_byte(server: Server) -> None:
    code = f"import json, os; print(json.dumps([os.environ[n] for n in {list(WEIRD)!r}]))"

    answer = await run(server, code, env=WEIRD)

    assert json.loads(answer["stdout"]) == list(WEIRD.values())


async def test_environment_reaches_child_processes(server: Server) -> None:
    code = "import subprocess; print(subprocess.check_output(['printenv', '-0', 'LINES']))"

    answer = await run(server, code, env=WEIRD)

    assert answer["stdout"] == f"{WEIRD['LINES'].encode() + bytes(1)!r}\n"


async def test_environment_is_gone_afterwards(server: Server) -> None:
    await run(server, "pass", env=WEIRD)

    answer = await run(server, f"import os; [n for n in {list(WEIRD)!r} if n in os.environ]")

    assert answer["result"] == "[]"


async def test_variable_that_was_set_before_comes_back(server: Server) -> None:
    await run(server, "import os; os.environ['BEFORE'] = 'old'")

    during = await run(server, "print(os.environ['BEFORE'])", env={"BEFORE": "new"})
    after = await run(server, "print(os.environ.pop('BEFORE'))")

    assert during["stdout"] == "new\n"
    assert after["stdout"] == "old\n"


async def test_path_is_replaced_for_one_run(server: Server) -> None:
    code = "import os, shutil; print(os.environ['PATH'], shutil.which('env'))"
    before = await run(server, code)

    during = await run(server, code, env={"PATH": "/nowhere"})
    after = await run(server, code)

    assert during["stdout"] == "/nowhere None\n"
    assert after["stdout"] == before["stdout"] != during["stdout"]


async def test_environment_is_undone_after_error_deletion_and_change(server: Server) -> None:
    await run(server, "import os; os.environ['KEPT'] = 'old'")

    await run(
        server,
        "del os.environ['KEPT']; os.environ['GIVEN'] = 'changed'; raise ValueError",
        env={"KEPT": "new", "GIVEN": "1"},
    )

    answer = await run(server, "os.environ.pop('KEPT'), os.environ.get('GIVEN')")
    assert answer["result"] == "('old', None)"


async def test_environment_is_undone_after_a_timeout(server: Server) -> None:
    await run(server, "import time; time.sleep(60)", env={"SLEPT": "1"}, timeout=0.3)

    answer = await run(server, "import os; 'SLEPT' in os.environ")

    assert answer["result"] == "False"


async def test_what_the_code_itself_sets_stays(server: Server) -> None:
    await run(server, "import os; os.environ['OWN'] = '1'", env={"OTHER": "1"})

    assert (await run(server, "os.environ.pop('OWN')"))["result"] == "'1'"


async def test_cell_magics_work_with_environment_and_directory(
    server: Server, tmp_path: Path
) -> None:
    code = '%%bash\nprintf \'%s|\' "$PWD" "$SAID"'

    answer = await run(server, code, env={"SAID": "a'b\"c\n$d"}, workdir=str(tmp_path))

    assert answer["stdout"] == f"{tmp_path}|a'b\"c\n$d|"


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("%%bash\necho $X", "1\n"),
        ("%%capture said\nprint('x')", ""),
        ("%%writefile written.txt\ncontent", "Writing written.txt\n"),
        ("%env X", ""),
        ("!echo $X", "1\n"),
        ("%cd -q /\n%pwd", ""),
    ],
)
async def test_magics_work_as_the_first_line(
    server: Server, tmp_path: Path, code: str, stdout: str
) -> None:
    answer = await run(server, code, env={"X": "1"}, workdir=str(tmp_path))

    assert answer["success"] is True, answer["stderr"]
    assert answer["stdout"].replace("\r\n", "\n") == stdout


async def test_secrets_of_the_service_are_not_visible_to_code(server: Server) -> None:
    answer = await run(server, "import os; [n for n in os.environ if 'JWT' in n or 'STATE' in n]")

    assert answer["result"] == "[]"


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
            run(server, "import time; time.sleep(0.4)", session_id=session_id)
        )
        await until_busy(server, session_id)

        answer = await run(
            server,
            "time.sleep(60)",
            session_id=session_id,
            timeout=60,
            request_timeout=1.0,
        )
        await first

    assert answer["outcome"] == "timeout"
    assert answer["queue_time"] + answer["execution_time"] == pytest.approx(1.0, abs=0.5)


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
