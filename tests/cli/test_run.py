"""Code that is run from the command line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from kernelagent.cli.connection import own_token
from tests.command_line import kernelagent, start
from tests.servers import Service
from tests.waiting import wait_until


def run_code(
    service: Service,
    directory: Path,
    code: str,
    *options: str,
    stdin: str | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    file = directory / "script.py"
    file.write_text(code)
    return kernelagent(
        "run",
        str(file),
        *options,
        cwd=directory,
        stdin=stdin,
        **{**service.environment, **environment},
    )


def new_session(service: Service) -> str:
    return str(service.request("POST", "/sessions", json={}).json()["id"])


def session_ids(service: Service) -> list[str]:
    sessions = service.request("GET", "/sessions").json()["sessions"]
    return [session["id"] for session in sessions]


def test_stdout_and_stderr_are_kept_apart(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "import sys\nprint('out')\nprint('err', file=sys.stderr)")

    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_exit_code_is_that_of_the_code(service: Service, tmp_path: Path) -> None:
    failed = run_code(service, tmp_path, "print('before')\n1 / 0")
    left = run_code(service, tmp_path, "import sys; sys.exit(7)")

    assert (failed.returncode, failed.stdout) == (1, "before\n")
    assert "ZeroDivisionError: division by zero" in failed.stderr
    assert left.returncode == 7


def test_output_appears_while_the_code_runs(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    file = tmp_path / "script.py"
    file.write_text(
        "import os, time\nprint('first', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('second')"
    )
    with start("run", str(file), cwd=tmp_path, **service.environment) as process:
        assert process.stdout.readline() == b"first\n"
        gate.touch()
        assert process.stdout.read() == b"second\n"
        assert process.wait() == 0


def test_code_from_stdin(service: Service, tmp_path: Path) -> None:
    done = kernelagent("run", "-", stdin="6 * 7", cwd=tmp_path, **service.environment)

    assert (done.returncode, done.stdout) == (0, "42\n")


def test_images_are_saved_and_their_paths_printed(service: Service, tmp_path: Path) -> None:
    code = (
        "import matplotlib.pyplot as plt\n"
        "from IPython.display import SVG, display\n"
        "plt.plot([1, 2]); plt.show()\n"
        'display(SVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\'))\n'
    )

    done = run_code(service, tmp_path, code, "--images", "pictures")

    assert done.stdout == "pictures/script-1.png\npictures/script-2.svg\n"
    assert (tmp_path / "pictures" / "script-1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "pictures" / "script-2.svg").read_text().startswith("<svg")


def test_text_is_preferred_to_html(service: Service, tmp_path: Path) -> None:
    code = (
        "import pandas as pd\nfrom IPython.display import HTML, Markdown, display\n"
        "print('no line end', end='')\n"
        "display(HTML('<b>bold</b>'))\ndisplay(Markdown('*soft*'))\npd.DataFrame({'a': [1]})\n"
    )

    done = run_code(service, tmp_path, code)

    assert done.stdout == "no line end\n<b>bold</b>\n*soft*\n   a\n0  1\n"


def test_prompts_are_answered_from_stdin(service: Service, tmp_path: Path) -> None:
    code = "import getpass\nprint(input('name? '), len(getpass.getpass('word? ')), input('more? '))"

    done = run_code(service, tmp_path, code, stdin="Ann\nsecret\nlast")

    assert (done.returncode, done.stdout) == (0, "Ann 6 last\n")
    assert "name? " in done.stderr


def test_prompt_without_input_interrupts_the_run(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "input('name? ')", stdin="")

    assert done.returncode == 1
    assert done.stderr == (
        "name? \nkernelagent: the code asks for input and stdin has ended: it was interrupted\n"
    )


def test_run_that_ends_while_it_asks_is_not_waited_for(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text("input('name? ')")
    ours, theirs = os.pipe()
    try:
        with start(
            *("run", str(file), "--timeout", "1"),
            stdin=ours,
            cwd=tmp_path,
            **service.environment,
        ) as process:
            _, err = process.finish()
            assert process.wait() == 124
    finally:
        os.close(ours)
        os.close(theirs)

    assert "time limit of 1 s" in err.decode()


def test_options_reach_the_run(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    code = "import os\nprint(os.getcwd(), os.environ['WORD'], os.environ['EQUAL'])"

    done = run_code(
        service,
        tmp_path,
        code,
        *("--workdir", str(folder), "--env", "WORD=hello", "--env", "EQUAL=a=b"),
    )

    assert done.stdout == f"{folder} hello a=b\n"


def test_fresh_session_is_closed_and_a_named_one_kept(service: Service, tmp_path: Path) -> None:
    before = session_ids(service)
    run_code(service, tmp_path, "x = 1")
    assert session_ids(service) == before

    session = new_session(service)
    run_code(service, tmp_path, "x = 41", "--session", session)
    done = run_code(service, tmp_path, "x + 1", "--session", session)

    assert done.stdout == "42\n"
    assert session in session_ids(service)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_interrupts_the_code(
    service: Service, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    trace = tmp_path / "trace"
    file = tmp_path / "script.py"
    file.write_text(
        "import time\ntry:\n    print('going', flush=True)\n    time.sleep(600)\n"
        f"except KeyboardInterrupt:\n    open({str(trace)!r}, 'w').close()\n    raise"
    )
    session = new_session(service)
    with start(
        "run", str(file), "--session", session, cwd=tmp_path, **service.environment
    ) as process:
        assert process.stdout.readline() == b"going\n"
        process.send_signal(number)
        assert process.wait() == code
    wait_until(trace.exists)
    assert run_code(service, tmp_path, "1 + 1", "--session", session).stdout == "2\n"


def test_nobody_there_says_how_to_start_the_server(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = kernelagent("run", "-", "--url", url, "--token", "x", stdin="1", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr == (
        f"kernelagent: nothing answers at {url}\nstart the server with: kernelagent serve\n"
    )


def test_refused_token_says_how_to_get_one(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "1", KERNELAGENT_TOKEN="wrong")

    assert done.returncode == 1
    assert "TOKEN_INVALID" in done.stderr
    assert "kernelagent token" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_session_is_an_error(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "1", "--session", "nothere")

    assert done.returncode == 1
    assert "SESSION_NOT_FOUND" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.py"], "cannot be read"),
        (["notes.txt"], "--language"),
        (["-", "--env", "broken"], "NAME=VALUE"),
    ],
)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: list[str], reason: str) -> None:
    (tmp_path / "notes.txt").write_text("text")

    done = kernelagent("run", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert reason in done.stderr


def test_own_token_stays_on_this_machine(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)

    assert own_token("http://localhost:7777")
    assert own_token("http://192.0.2.1:7777") is None
    assert own_token("https://example.org") is None


def test_no_key_is_made_only_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_STATE_DIR", str(tmp_path / "state"))

    assert own_token("http://127.0.0.1:7777") is None
    assert not (tmp_path / "state").exists()
