"""The directory and the variables of a run, and that they are undone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs import run, session
from tests.servers import Server

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


# Environment


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
